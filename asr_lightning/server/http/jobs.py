"""The v1 API of jobs: create, list, look up, cancel, resume and delete them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from asr_lightning.server.engine import states
from asr_lightning.server.engine.quota import UNLIMITED
from asr_lightning.server.engine.records import Job
from asr_lightning.server.http import admission, downloads, fields, schemas, views
from asr_lightning.server.http.context import Context, RequestContext
from asr_lightning.server.http.responses import answers

router = APIRouter()

FIELDS: dict[str, Mapping[str, object]] = {
    "model": {"type": "string", "description": "a name of GET /v1/models"},
    "epochs": admission.EPOCHS,
    "language": admission.LANGUAGE,
    "seed": admission.SEED_NUMBER,
}
BODY: dict[str, object] = {
    "parameters": [admission.KEY_HEADER],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": admission.form_schema(FIELDS, ["model"]),
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {**FIELDS, "upload": {"type": "string", "description": "of POST /v1/uploads"}},
                    "required": ["model", "upload"],
                    "additionalProperties": False,
                }
            },
        },
    },
}


def answer(request: Request, context: Context, job: Job, status: int = 200) -> Response:
    """An answer with the job object, and with its address if the job was started."""
    headers = {"Location": f"/v1/jobs/{job.id}"} if status == 202 else {}
    url = downloads.tensorboard_url(request, context)
    return JSONResponse(views.job_object(job, url, context.caller.reads_texts), status, headers)


@router.post(
    "/v1/jobs",
    status_code=202,
    openapi_extra=BODY,
    responses=answers(
        "not_found", "timeout", "busy", "too_large", "unsupported_media", "invalid_parameter", "quota_exceeded",
        "unavailable", "disk_full", "quota_bytes", s202=schemas.Job,
    ),
)  # fmt: skip
async def create(request: Request, context: RequestContext) -> Response:
    """Queue a job. It is on the disk when this answers; its data are inspected afterwards."""
    if fields.is_json(request):
        job, _ = await admission.by_upload(request, context)
    else:
        job, _ = await admission.by_form(request, context, "v1")
    return answer(request, context, job, 202)


@router.get("/v1/jobs", responses=answers("invalid_parameter", s200=schemas.Jobs))
async def listing(
    request: Request,
    context: RequestContext,
    state: Annotated[states.State | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: Annotated[str | None, Query(max_length=64, description="``next`` of the page before")] = None,
) -> Response:
    """Jobs, newest first. Deleted ones are listed only if ``state=purged`` is asked for."""
    page = await run_in_threadpool(context.engine.jobs, state, limit, after, context.caller.only)
    shown = [job for job in page if state or job.state != states.PURGED]
    url = downloads.tensorboard_url(request, context)
    last = page[-1].id if len(page) == limit else None
    return JSONResponse(
        {"data": [views.job_object(job, url, context.caller.reads_texts) for job in shown], "next": last}
    )


@router.get("/v1/jobs/{job_id}", responses=answers("not_found", s200=schemas.Job))
async def get(request: Request, context: RequestContext, job_id: str) -> Response:
    """One job. Its artifacts are compared with their hashes; ``damage`` names those that are lost or changed."""
    job = await context.job(job_id)
    verified = await to_thread.run_sync(context.engine.files.verify, job, limiter=context.verifications)
    return answer(request, context, verified)


@router.post(
    "/v1/jobs/{job_id}/cancel", status_code=202, responses=answers("not_found", s200=schemas.Job, s202=schemas.Job)
)
async def cancel(request: Request, context: RequestContext, job_id: str) -> Response:
    """Cancel a job; one that has ended stays as it is. This may be repeated."""
    before = await context.job(job_id)
    job = await run_in_threadpool(context.engine.cancel, before.id)
    ended = job.state not in states.ACTIVE and before.state not in states.ACTIVE
    return answer(request, context, job, 200 if ended else 202)


@router.post(
    "/v1/jobs/{job_id}/resume",
    status_code=202,
    responses=answers("not_found", "busy", "purged", "quota_exceeded", "disk_full", s202=schemas.Job),
)
async def resume(request: Request, context: RequestContext, job_id: str) -> Response:
    """Start a new attempt of an interrupted, failed or cancelled job, from its last good checkpoint."""
    before = await context.job_with_files(job_id)
    quota = context.caller.quota if before.owner == context.caller.owner else UNLIMITED
    return answer(request, context, await run_in_threadpool(context.engine.resume, before.id, quota), 202)


@router.delete("/v1/jobs/{job_id}", responses=answers("not_found", "busy", s200=schemas.Receipt))
async def delete(context: RequestContext, job_id: str) -> Response:
    """Delete a job with every byte of its data and model; the answer lists what was deleted."""
    job = await context.job(job_id)
    receipt = await run_in_threadpool(context.engine.purge, job.id)
    return JSONResponse(receipt.as_dict())
