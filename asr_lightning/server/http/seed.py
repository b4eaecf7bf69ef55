"""The seed's three routes, as its README uses them with curl."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from asr_lightning.job_folder import layout
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.states import PURGED
from asr_lightning.server.http import admission, downloads, schemas, views
from asr_lightning.server.http.context import Context, Here
from asr_lightning.server.http.schemas import answers

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
LOOK_BACK = 50


@router.post(
    "/training",
    openapi_extra=BODY,
    responses=answers(
        "timeout", "busy", "too_large", "unsupported_media", "invalid_parameter", "disk_full", s200=schemas.Created
    ),
)
async def training(request: Request, here: Here) -> Response:
    """Start a training: one at a time over the whole server."""
    job, _ = await admission.by_form(request, here, "seed")
    return JSONResponse({"training_id": job.id})


@router.get("/status", responses=answers("not_found", "invalid_parameter", s200=schemas.Status))
async def status(request: Request, here: Here, training_id: Annotated[str | None, Query()] = None) -> Response:
    """Where a training is: the active one, the last one, or the one that is named."""
    job = await (here.job(training_id) if training_id else run_in_threadpool(latest, here))
    return JSONResponse(views.status(job, downloads.tensorboard_url(request, here)))


def latest(here: Context) -> Job | None:
    """The oldest active job; else the newest that was not deleted."""
    found = here.engine.active()
    if found is not None:
        return found
    return next((job for job in here.engine.jobs(limit=LOOK_BACK) if job.state != PURGED), None)


@router.api_route("/download_model", methods=["HEAD"], include_in_schema=False)
@router.get("/download_model", response_class=Response, responses=downloads.file_answers(downloads.GZIP))
async def download_model(here: Here, training_id: Annotated[str, Query()]) -> Response:
    """The model of a finished training, as a ``.tar.gz``."""
    job = await here.kept(training_id)
    return await downloads.artifact(here, job, layout.MODEL_ARCHIVE)
