"""Resumable uploads: what arrived stays, and a cut connection goes on from there."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from asr_lightning.jobs.engine import Engine
from asr_lightning.server import schemas
from asr_lightning.server.context import Here, call
from asr_lightning.server.fields import json_object
from asr_lightning.server.forms import GZIP, check_gzip
from asr_lightning.server.problems import Problem, invalid
from asr_lightning.server.schemas import BINARY, answers
from asr_lightning.server.settings import ServerSettings
from asr_lightning.server.sink import Sink

router = APIRouter()

IDLE_S = 6 * 3600
BODY: dict[str, Any] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"size": {"type": "integer", "minimum": 1, "description": "bytes, when known"}},
                    "additionalProperties": False,
                }
            }
        }
    }
}
RAW: dict[str, Any] = {"requestBody": {"required": True, "content": {"application/octet-stream": {"schema": BINARY}}}}


@dataclass
class Upload:
    """One upload.

    Attributes:
        path: Where it is kept; the name is the id.
        size: Announced by the client; None where it was not.
        received: Bytes on the disk.
        used: When it was last touched, on the monotonic clock.
        lock: Held while bytes arrive or a job takes it.
    """

    path: Path
    size: int | None
    received: int = 0
    used: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def view(self) -> dict[str, Any]:
        """As JSON."""
        return {"id": self.path.name, "received": self.received, "size": self.size}


class Uploads:
    """Every open upload, by an id made here. A restart of the server forgets them, and the engine removes the files."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.engine, self.settings = engine, settings
        self._open: dict[str, Upload] = {}

    async def create(self, size: int | None) -> Upload:
        """A new one.

        Raises:
            Problem: Too many are open, or it would be too large.
            DiskFullError: Too little space is left.
        """
        if size is not None and size > self.settings.body.upload:
            raise Problem("too_large", f"at most {self.settings.body.upload} bytes are taken")
        for upload in [u for u in self._open.values() if time.monotonic() - u.used > IDLE_S and not u.lock.locked()]:
            await self.discard(upload)
        if len(self._open) >= self.settings.uploads:
            raise Problem("unavailable", "too many uploads are open: finish or delete one")
        upload = Upload(await call(self.engine.new_upload), size)
        self._open[upload.path.name] = upload
        return upload

    def get(self, upload_id: str) -> Upload:
        """The one called ``upload_id``.

        Raises:
            Problem: There is none.
        """
        if upload_id not in self._open:
            raise Problem("not_found", "there is no such upload: begin a new one")
        return self._open[upload_id]

    async def discard(self, upload: Upload) -> None:
        """Forget ``upload`` and remove what arrived."""
        self._open.pop(upload.path.name, None)
        await call(upload.path.unlink, missing_ok=True)

    async def append(self, upload: Upload, offset: int, request: Request) -> None:
        """Add the body of ``request`` at ``offset``; what arrived before an error stays.

        Raises:
            Problem: ``offset`` is not where the upload ended, or it becomes too large.
            DiskFullError: Too little space is left.
        """
        if upload.lock.locked() or offset != upload.received:
            raise Problem("busy", f"go on at byte {upload.received}", {"Retry-After": "1"}, received=upload.received)
        most = self.settings.body.upload if upload.size is None else upload.size
        async with upload.lock, Sink(upload.path, self.settings.min_free_bytes) as sink:
            try:
                head = b""
                async for chunk in request.stream():
                    if offset == 0 and len(head) < len(GZIP):
                        head += chunk[: len(GZIP)]
                        check_gzip(head)
                    sink.take(chunk)
                    if offset + sink.taken > most:
                        raise Problem("too_large", f"the upload has more than {most} bytes")
                    await sink.settle()
                await sink.finish()
            except BaseException:
                with contextlib.suppress(OSError):
                    await sink.finish()
                raise
            finally:
                upload.used = time.monotonic()
                upload.received = offset + sink.written


@router.post(
    "/v1/uploads",
    status_code=201,
    openapi_extra=BODY,
    responses=answers("too_large", "invalid_parameter", "unavailable", "disk_full", "timeout", s201=schemas.Upload),
)
async def create(request: Request, here: Here) -> Response:
    """Begin a resumable upload."""
    size = (await json_object(request, frozenset({"size"}))).get("size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise invalid("size", "size must be a number of bytes")
    upload = await here.uploads.create(size)
    return JSONResponse(upload.view(), 201, {"Location": f"/v1/uploads/{upload.path.name}"})


@router.get("/v1/uploads/{upload_id}", responses=answers("not_found", s200=schemas.Upload))
async def get(here: Here, upload_id: str) -> Response:
    """How much of an upload has arrived."""
    return JSONResponse(here.uploads.get(upload_id).view())


@router.put(
    "/v1/uploads/{upload_id}",
    openapi_extra=RAW,
    responses=answers(
        "not_found", "busy", "too_large", "unsupported_media", "invalid_parameter", "disk_full", "timeout",
        s200=schemas.Upload,
    ),
)  # fmt: skip
async def put(request: Request, here: Here, upload_id: str, offset: Annotated[int, Query(ge=0)]) -> Response:
    """Add the body at ``offset``, which must be the number of bytes received so far."""
    upload = here.uploads.get(upload_id)
    await here.uploads.append(upload, offset, request)
    return JSONResponse(upload.view())


@router.delete("/v1/uploads/{upload_id}", status_code=204, responses=answers("not_found", "busy", s204=None))
async def delete(here: Here, upload_id: str) -> Response:
    """Drop an upload."""
    upload = here.uploads.get(upload_id)
    if upload.lock.locked():
        raise Problem("busy", "bytes are arriving", {"Retry-After": "1"}, received=upload.received)
    await here.uploads.discard(upload)
    return Response(status_code=204)
