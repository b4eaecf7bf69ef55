"""The three routes of this server's predecessor, which its users call with curl."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from asr_lightning.job_folder import layout
from asr_lightning.server.engine.records import PREDECESSOR, Job
from asr_lightning.server.engine.states import PURGED
from asr_lightning.server.http import admission, downloads, schemas, views
from asr_lightning.server.http.context import Context, RequestContext
from asr_lightning.server.http.responses import answers

router = APIRouter()

BODY: dict[str, object] = {
    "parameters": [admission.KEY_HEADER],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": admission.form_schema(
                {
                    "base_model_name": {"type": "string"}, "epochs": admission.EPOCHS, "language": admission.LANGUAGE,
                },
                ["base_model_name"],
            )
        },
    },
}  # fmt: skip
NEWEST = 50  # jobs among which the newest one that was not deleted is looked for


@router.post(
    "/training",
    openapi_extra=BODY,
    responses=answers(
        "timeout",
        "busy",
        "too_large",
        "unsupported_media",
        "invalid_parameter",
        "quota_exceeded",
        "disk_full",
        "quota_bytes",
        s200=schemas.Created,
    ),
)
async def training(request: Request, context: RequestContext) -> Response:
    """Start a training. Only one job may be active on the whole server."""
    job, _ = await admission.by_form(request, context, PREDECESSOR)
    return JSONResponse({"training_id": job.id})


@router.get("/status", responses=answers("not_found", "invalid_parameter", s200=schemas.Status))
async def status(
    request: Request, context: RequestContext, training_id: Annotated[str | None, Query()] = None
) -> Response:
    """The status of one training: the named one, else the active one, else the last one."""
    job = await (context.job(training_id) if training_id else run_in_threadpool(latest, context))
    return JSONResponse(views.status(job, downloads.tensorboard_url(request, context)))


def latest(context: Context) -> Job | None:
    """The oldest active job, or else the newest job that was not deleted."""
    only = context.caller.only
    active = context.engine.active(only)
    if active is not None:
        return active
    return next((job for job in context.engine.jobs(limit=NEWEST, owner=only) if job.state != PURGED), None)


@router.api_route("/download_model", methods=["HEAD"], include_in_schema=False)
@router.get("/download_model", response_class=Response, responses=downloads.file_answers(downloads.GZIP))
async def download_model(context: RequestContext, training_id: Annotated[str, Query()]) -> Response:
    """The model of a finished training, as a ``.tar.gz``."""
    job = await context.job_with_files(training_id)
    return await downloads.artifact(context, job, layout.MODEL_ARCHIVE)
