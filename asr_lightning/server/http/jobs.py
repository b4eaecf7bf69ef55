"""The v1 API of jobs: make, look, cancel, resume, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from asr_lightning.server.engine import states
from asr_lightning.server.engine.records import Job
from asr_lightning.server.http import admission, downloads, fields, schemas, views
from asr_lightning.server.http.context import Context, Here
from asr_lightning.server.http.schemas import answers

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


def answer(request: Request, here: Context, job: Job, status: int = 200) -> Response:
    """The job object; with its address where something was begun."""
    headers = {"Location": f"/v1/jobs/{job.id}"} if status == 202 else {}
    return JSONResponse(views.job_object(job, downloads.tensorboard_url(request, here)), status, headers)


@router.post(
    "/v1/jobs",
    status_code=202,
    openapi_extra=BODY,
    responses=answers(
        "not_found", "timeout", "busy", "too_large", "unsupported_media", "invalid_parameter", "unavailable",
        "disk_full", s202=schemas.Job,
    ),
)  # fmt: skip
async def create(request: Request, here: Here) -> Response:
    """Queue a job. It is on the disk when this answers; deep checks of the data come after."""
    if fields.is_json(request):
        job, _ = await admission.by_upload(request, here)
    else:
        job, _ = await admission.by_form(request, here, "v1")
    return answer(request, here, job, 202)


@router.get("/v1/jobs", responses=answers("invalid_parameter", s200=schemas.Jobs))
async def listing(
    request: Request,
    here: Here,
    state: Annotated[states.State | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    after: Annotated[str | None, Query(max_length=64, description="``next`` of the page before")] = None,
) -> Response:
    """Jobs, newest first; a deleted one only when its state is asked for."""
    found = await run_in_threadpool(here.engine.jobs, state, limit, after)
    shown = [job for job in found if state or job.state != states.PURGED]
    url = downloads.tensorboard_url(request, here)
    last = found[-1].id if len(found) == limit else None
    return JSONResponse({"data": [views.job_object(job, url) for job in shown], "next": last})


@router.get("/v1/jobs/{job_id}", responses=answers("not_found", s200=schemas.Job))
async def get(request: Request, here: Here, job_id: str) -> Response:
    """One job."""
    return answer(request, here, await here.job(job_id))


@router.post(
    "/v1/jobs/{job_id}/cancel", status_code=202, responses=answers("not_found", s200=schemas.Job, s202=schemas.Job)
)
async def cancel(request: Request, here: Here, job_id: str) -> Response:
    """End a job; one that has ended stays as it is. May be repeated."""
    before = await here.job(job_id)
    job = await run_in_threadpool(here.engine.cancel, before.id)
    ended = job.state not in states.ACTIVE and before.state not in states.ACTIVE
    return answer(request, here, job, 200 if ended else 202)


@router.post(
    "/v1/jobs/{job_id}/resume",
    status_code=202,
    responses=answers("not_found", "busy", "purged", "disk_full", s202=schemas.Job),
)
async def resume(request: Request, here: Here, job_id: str) -> Response:
    """Begin a new attempt of an interrupted, failed or cancelled job, from its last good checkpoint."""
    before = await here.kept(job_id)
    return answer(request, here, await run_in_threadpool(here.engine.resume, before.id), 202)


@router.delete("/v1/jobs/{job_id}", responses=answers("not_found", "busy", s200=schemas.Receipt))
async def delete(here: Here, job_id: str) -> Response:
    """Delete a job with every byte of its data and model; the answer lists what was deleted."""
    job = await here.job(job_id)
    receipt = await run_in_threadpool(here.engine.purge, job.id)
    return JSONResponse(receipt.as_dict())
