"""The files of a finished job, under fixed names that the store knows."""

from __future__ import annotations

import os
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from asr_lightning.job_folder import layout
from asr_lightning.server.engine.damage import DamagedError
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.states import PURGED, SUCCEEDED
from asr_lightning.server.http import checkpoints, schemas
from asr_lightning.server.http.callers import signature
from asr_lightning.server.http.context import Context, RequestContext
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.responses import BINARY, TEXT, answers
from asr_lightning.server.http.tensorboard import PURPOSE

router = APIRouter()

TYPES = {
    "gz": "application/gzip",
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "SHA256SUMS": "text/plain; charset=utf-8",
}
# A report shows transcripts: no script that they may hold runs, and nothing is loaded from other sites.
REPORT_CSP = (
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


def file_answers(*kinds: str) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route that sends a file of one of the media types ``kinds``."""
    content = {kind: BINARY if kind == GZIP else {} for kind in kinds}
    responses = answers("not_found", "not_finished", "purged", "artifact_damaged", "invalid_parameter", s200=content)
    responses[304] = {"description": "The client has the file, as its If-None-Match says"}
    responses[206] = {"description": "A part", "content": {kind: {} for kind in (*kinds, "multipart/byteranges")}}
    responses[400] = {"description": "Malformed Range", "content": {"text/plain": {"schema": TEXT["text/plain"]}}}
    responses[416] = {
        "description": "Range outside the file",
        "content": {"text/plain": {"schema": TEXT["text/plain"]}},
    }
    return responses


GZIP, HTML, JSON = "application/gzip", "text/html", "application/json"


class OpenFile(FileResponse):
    """A file that was opened before the first byte of the answer, so that it is sent whole even if the job is deleted.

    Args:
        descriptor: Descriptor of the open file, which this closes.
        name: File name of the download.
        digest: SHA-256 of the file.
        headers: Further headers.
    """

    def __init__(self, descriptor: int, name: str, digest: str, headers: dict[str, str]) -> None:
        self._descriptor = descriptor
        super().__init__(
            f"/dev/fd/{descriptor}",
            headers={"ETag": f'"{digest}"', **headers},
            media_type=TYPES[name.rpartition(".")[2]],
            filename=name,
            stat_result=os.fstat(descriptor),
            content_disposition_type="inline" if name.endswith((".html", ".json")) else "attachment",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file, or 304 to a client that has it."""
        try:
            known = Headers(scope=scope).get("if-none-match")
            if known is not None and _names(known, self.headers["etag"]):
                kept = {name: self.headers[name] for name in ("etag", "last-modified")}
                await Response(status_code=304, headers=kept)(scope, receive, send)
            else:
                await super().__call__(scope, receive, send)
        finally:
            os.close(self._descriptor)


def _names(if_none_match: str, etag: str) -> bool:
    """Whether ``If-None-Match`` names ``etag``, or any file; weak and strong tags count as equal here."""
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags


async def artifact(context: Context, job: Job, name: str) -> Response:
    """The file ``name`` of ``job``.

    Raises:
        Problem: The job has no such file, or has not finished.
    """
    if name in job.artifacts and job.state == SUCCEEDED:
        return await to_thread.run_sync(_open, context, job, name, limiter=context.verifications)
    if name in layout.ARTIFACT_NAMES and job.state != SUCCEEDED:
        raise Problem("not_finished", f"the job is {job.state}: there is nothing to download", state=job.state)
    raise Problem("not_found", "the job has no such file")


def _open(context: Context, job: Job, name: str) -> OpenFile:
    stored = next(stored for stored in job.artifacts if stored == name)  # no path is built from a client's text
    try:
        opened = context.engine.files.open(job, stored)
    except DamagedError as error:
        if context.engine.store.job(job.id).state == PURGED:
            raise Problem("purged", "the job was deleted with all its files") from error
        raise Problem("artifact_damaged", error.damage.message, state=error.damage.state) from error
    headers = {"Content-Security-Policy": REPORT_CSP} if stored.endswith(".html") else {}
    return OpenFile(opened.descriptor, stored, job.artifacts[stored], headers)


@router.get(
    "/v1/jobs/{job_id}/artifacts", responses=answers("not_found", "not_finished", "purged", s200=schemas.Artifacts)
)
async def artifacts(context: RequestContext, job_id: str) -> Response:
    """The files of a job that succeeded. ``state`` is ``ok`` unless a file is ``lost`` or ``changed``."""
    job = await context.job_with_files(job_id)
    if job.state != SUCCEEDED:
        raise Problem("not_finished", f"the job is {job.state}: there is nothing to download", state=job.state)
    verified = await to_thread.run_sync(context.engine.files.verify, job, limiter=context.verifications)
    return JSONResponse({"data": await run_in_threadpool(_artifacts, context, verified), "next": None})


def _artifacts(context: Context, job: Job) -> list[dict[str, object]]:
    folder, states = context.engine.home.job(job.id) / layout.ARTIFACTS, {bad.name: bad.state for bad in job.damage}
    return [
        {
            "name": name,
            "size": (folder / name).stat().st_size if (folder / name).is_file() else 0,
            "sha256": digest,
            "state": states.get(f"{layout.ARTIFACTS}/{name}", "ok"),
        }
        for name, digest in sorted(job.artifacts.items())
    ]


@router.api_route("/v1/jobs/{job_id}/artifacts/{name}", methods=["HEAD"], include_in_schema=False)
@router.get(
    "/v1/jobs/{job_id}/artifacts/{name}",
    response_class=Response,
    responses=file_answers(GZIP, HTML, JSON, "text/plain"),
)
async def get_artifact(context: RequestContext, job_id: str, name: str) -> Response:
    """One file of a job that succeeded."""
    return await artifact(context, await context.job_with_files(job_id), name)


@router.api_route("/v1/jobs/{job_id}/report.json", methods=["HEAD"], include_in_schema=False)
@router.get("/v1/jobs/{job_id}/report.json", response_class=Response, responses=file_answers(JSON))
async def report_json(context: RequestContext, job_id: str) -> Response:
    """The report, for programs."""
    return await artifact(context, await context.job_with_files(job_id), layout.REPORT_JSON)


@router.api_route("/v1/jobs/{job_id}/report.html", methods=["HEAD"], include_in_schema=False)
@router.get("/v1/jobs/{job_id}/report.html", response_class=Response, responses=file_answers(HTML))
async def report_html(context: RequestContext, job_id: str) -> Response:
    """The report, for people; it needs no script."""
    return await artifact(context, await context.job_with_files(job_id), layout.REPORT_HTML)


@router.get("/v1/jobs/{job_id}/checkpoints", responses=answers("not_found", "purged", s200=schemas.Checkpoints))
async def get_checkpoints(context: RequestContext, job_id: str) -> Response:
    """The checkpoints of a job, by name and size. A checkpoint can hold code, so none can be downloaded or uploaded."""
    job = await context.job_with_files(job_id)
    names = await run_in_threadpool(checkpoints.listing, context.engine.home.job(job.id))
    return JSONResponse({"data": names, "checks": job.progress.checks if job.progress else [], "next": None})


def tensorboard_url(request: Request, context: Context) -> str | None:
    """The URL of TensorBoard for a client; if the server has a token, the path is signed and expires."""
    settings = context.settings
    if context.tensorboard is None or not context.caller.reads_texts:
        return None
    host = request.headers["host"]
    if settings.tensorboard_public:
        return f"http://{host.rpartition(':')[0] or host}:{context.tensorboard.port}/"
    tls = host.endswith(".proxy.runpod.net") or request.headers.get("x-forwarded-proto") == "https"
    signed = signature(context.caller, PURPOSE)
    return f"{'https' if tls else 'http'}://{host}/tensorboard/{f's/{signed}/' if signed else ''}"
