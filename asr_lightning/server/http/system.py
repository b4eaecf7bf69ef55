"""Routes about the server itself: health, version, figures and models; and the inspection of data without training."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict

import anyio.to_thread
import psutil
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, PlainTextResponse, Response

from asr_lightning import __version__
from asr_lightning.server.engine import states
from asr_lightning.server.engine.health import Trouble
from asr_lightning.server.http import admission, forms, schemas
from asr_lightning.server.http.context import Context, RequestContext
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.responses import TEXT, answers

router = APIRouter()

INSPECTION_BODY: dict[str, object] = {
    "requestBody": {"required": True, "content": {"multipart/form-data": admission.form_schema({}, [])}}
}
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz", responses=answers(s200=schemas.Health))
async def healthz() -> Response:
    """Whether the server answers. It needs no token, and so gives no detail."""
    return JSONResponse({"status": "ok"})


@router.get("/readyz", responses=answers("unavailable", s200=schemas.Health))
async def readyz(context: RequestContext) -> Response:
    """Whether the server can do its work; ``troubles`` says what keeps it from that."""
    if not context.engine.is_supervised():
        raise Problem("unavailable", "jobs are not being processed: restart the server, which loses none of them")
    if troubles := await run_in_threadpool(_troubles, context):
        details = "; ".join(f"{each.job}: {each.message}" if each.job else each.message for each in troubles)
        raise Problem("unavailable", details, troubles=[asdict(each) for each in troubles])
    return JSONResponse({"status": "ready"})


def _troubles(context: Context) -> list[Trouble]:
    """What keeps the server from its work, as far as the caller may know: jobs of other names do not exist for it."""
    troubles = context.engine.health.troubles()
    if context.caller.only is None:
        return troubles
    own = {job.id for job in context.engine.store.jobs(owner=context.caller.only)}
    return [each for each in troubles if each.job is None or each.job in own]


@router.get("/version", responses=answers(s200=schemas.Version))
async def version() -> Response:
    """The version of this server."""
    return JSONResponse({"name": "asr-lightning", "version": __version__})


@router.get("/v1/models", responses=answers(s200=schemas.Models))
async def models(context: RequestContext) -> Response:
    """The base models that may be asked for, with licence and size."""
    return JSONResponse({"data": list(context.models.listing), "next": None})


@router.get("/metrics", response_class=Response, responses=answers(s200=TEXT))
async def metrics(context: RequestContext) -> Response:
    """Figures for Prometheus."""
    return PlainTextResponse(await run_in_threadpool(figures, context), media_type=PROMETHEUS)


def figures(context: Context) -> str:
    """Figures about the server in Prometheus' text format."""
    counts = Counter(job.state for job in context.engine.store.jobs())
    health = context.engine.health
    troubles = Counter(trouble.code for trouble in health.troubles())
    rows = ["# TYPE asr_jobs gauge"]
    rows += [f'asr_jobs{{state="{state}"}} {counts[state]}' for state in sorted(states.STATES)]
    for name, value in {
        "asr_supervised": int(context.engine.is_supervised()),
        "asr_streams": context.feed.open,
        "asr_disk_free_bytes": health.free(),
        "asr_disk_full": troubles["disk_full"],
        "asr_jobs_stuck": troubles["stuck_job"],
        "asr_reserve_bytes": health.reserve.size,
        "asr_resident_bytes": psutil.Process(os.getpid()).memory_info().rss,
    }.items():
        rows += [f"# TYPE {name} gauge", f"{name} {value}"]
    rows += ["# TYPE asr_failed_writes_total counter", f"asr_failed_writes_total {health.failed_writes}"]
    return "\n".join(rows) + "\n"


@router.post(
    "/v1/datasets/validate",
    openapi_extra=INSPECTION_BODY,
    responses=answers(
        "timeout", "too_large", "unsupported_media", "invalid_parameter", "unavailable", "disk_full",
        s200=schemas.Verdict,
    ),
)  # fmt: skip
async def validate(request: Request, context: RequestContext) -> Response:
    """Inspect a data set without training: 200 with the warnings, or a problem with every issue attached."""
    forms.boundary(request)
    if (
        context.inspections.borrowed_tokens + context.inspections.statistics().tasks_waiting
        >= context.settings.inspections
    ):
        raise Problem("unavailable", "other data sets are being checked: try again soon")
    path = await run_in_threadpool(context.engine.new_upload)
    async with forms.received(request, frozenset(), path, context.settings.min_free_bytes):
        try:
            report = await anyio.to_thread.run_sync(context.engine.inspect, path, limiter=context.inspections)
        except TimeoutError as error:
            raise Problem("timeout", "the check took too long: send fewer clips") from error
    if report.error is None:
        return JSONResponse(report.as_dict())
    code = report.error.code
    known = code if code in ("too_large", "unsupported_media", "disk_full") else "dataset_invalid"
    message = report.error.message or "the data set has errors"
    raise Problem(known, message, param="data", issues=report.dataset["issues"], counts=report.dataset["counts"],
                  utterances=report.dataset["utterances"], seconds=report.dataset["seconds"])  # fmt: skip
