"""Resumable uploads: after a cut connection, a client continues where the upload stopped."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.quota import ByteQuota
from asr_lightning.server.http.forms import GZIP, require_gzip
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.settings import ServerSettings
from asr_lightning.server.http.sink import Sink

IDLE_S = 6 * 3600
"""Seconds after its last byte until an upload is deleted: a client that lost its connection may continue."""
UNTOUCHED_S = 600
"""The same for an upload without any byte, which holds nothing that could be lost."""
FREE = (
    "GET /v1/uploads (python -m asr_lightning remote uploads) lists them, and DELETE /v1/uploads/ID (remote uploads "
    "--delete ID) deletes one"
)


@dataclass
class Upload:
    """One upload.

    Attributes:
        path: The file, whose name is the id of the upload.
        size: Size in bytes that the client announced; None if it announced none.
        client: Address of the client that began it, which may have only some of the places.
        owner: Name that began it; None if the client has none.
        received: Number of bytes on the disk.
        arriving: The same, with those of the request that is being received.
        used: When bytes last arrived, on the monotonic clock.
        lock: Held while bytes arrive, and while a job takes the file.
    """

    path: Path
    size: int | None
    client: str = ""
    owner: str | None = None
    received: int = 0
    arriving: int = 0
    used: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def is_of(self, client: str, owner: str | None) -> bool:
        """Whether the same client began it: the same name, or the same address without a name."""
        return self.owner == owner and (owner is not None or self.client == client)

    def is_over(self) -> bool:
        """Whether no byte arrived for so long that the upload may be deleted."""
        idle_s = time.monotonic() - self.used
        return idle_s > (IDLE_S if self.received else UNTOUCHED_S) and not self.lock.locked()

    def view(self) -> dict[str, object]:
        """The upload as a JSON object."""
        return {"id": self.path.name, "received": self.received, "size": self.size}


class Uploads:
    """The open uploads. A restart of the server forgets them, and the engine deletes their files."""

    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self.engine, self.settings = engine, settings
        self._open: dict[str, Upload] = {}
        self._creating = asyncio.Lock()

    async def create(
        self, size: int | None, client: str, owner: str | None, require: Callable[[], Awaitable[None]]
    ) -> Upload:
        """Begin an upload for the client at the address ``client``, or with the token of ``owner``.

        ``require`` is called before, and raises an error if that name may not have so many bytes.

        Raises:
            QuotaError: ``require`` raised it.
            Problem: Too many uploads are open, or this one would be too large.
            DiskFullError: Too little space is left.
        """
        if size is not None and size > self.settings.body.upload:
            raise Problem("too_large", f"at most {self.settings.body.upload} bytes are accepted")
        async with self._creating:  # a limit would not hold if several looked at the same time
            uploads = await self.listing()
            own = sum(upload.is_of(client, owner) for upload in uploads)
            if own >= self.settings.uploads_of_client:
                raise Problem("unavailable", f"you have {own} open uploads: {FREE}")
            if len(uploads) >= self.settings.uploads:
                raise Problem("unavailable", f"{len(uploads)} uploads are open: try again later, or {FREE}")
            await require()
            upload = Upload(await run_in_threadpool(self.engine.new_upload), size, client, owner)
            self._open[upload.path.name] = upload
        return upload

    async def listing(self) -> list[Upload]:
        """The open uploads, the oldest first. Those that nobody continued for a long time are deleted."""
        for upload in [upload for upload in self._open.values() if upload.is_over()]:
            await self.discard(upload)
        return list(self._open.values())

    def get(self, upload_id: str) -> Upload:
        """The upload ``upload_id``.

        Raises:
            Problem: There is no such upload.
        """
        if upload_id not in self._open:
            raise no_such_upload()
        return self._open[upload_id]

    def held_by(self, owner: str | None) -> int:
        """The bytes of all uploads of ``owner``, with those that were announced and have not arrived."""
        own = (upload for upload in self._open.values() if upload.owner == owner)
        return sum(max(upload.size or 0, upload.received, upload.arriving) for upload in own)

    async def discard(self, upload: Upload) -> None:
        """Forget ``upload`` and delete its file."""
        self._open.pop(upload.path.name, None)
        await run_in_threadpool(upload.path.unlink, missing_ok=True)

    async def append(self, upload: Upload, offset: int, request: Request, quota: ByteQuota | None = None) -> None:
        """Add the body of ``request`` at ``offset``. Bytes that arrived before an error stay.

        Args:
            upload: The upload.
            offset: Number of bytes that it should have.
            request: The request, whose body may have no announced length.
            quota: What the jobs and uploads of the same name may hold; None if nothing limits them.

        Raises:
            QuotaError: The name would hold more than it may.
            Problem: The upload has another length than ``offset``, or becomes too large.
            DiskFullError: Too little space is left.
        """
        if upload.lock.locked() or offset != upload.received:
            raise Problem("busy", f"continue at byte {upload.received}", {"Retry-After": "1"}, received=upload.received)
        max_bytes = self.settings.body.upload if upload.size is None else upload.size
        async with upload.lock, Sink(upload.path, self.settings.min_free_bytes) as sink:
            try:
                head = b""
                async for chunk in request.stream():
                    if offset == 0 and len(head) < len(GZIP):
                        head += chunk[: len(GZIP)]
                        require_gzip(head)
                    if quota is not None:
                        quota.require(len(chunk), self.held_by(upload.owner))
                    sink.take(chunk)
                    upload.arriving = offset + sink.taken
                    if offset + sink.taken > max_bytes:
                        raise Problem("too_large", f"the upload has more than {max_bytes} bytes")
                    await sink.settle()
                await sink.finish()
            except BaseException:
                with contextlib.suppress(OSError):
                    await sink.finish()
                raise
            finally:
                upload.used = time.monotonic()
                upload.received = upload.arriving = offset + sink.written


def no_such_upload() -> Problem:
    """The problem that an upload does not exist, or not for this client."""
    return Problem("not_found", "there is no such upload: begin a new one")
