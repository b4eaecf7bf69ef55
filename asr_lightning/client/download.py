"""Download of an artifact: it resumes after a lost connection, and the file appears only once its sha256 is right."""

from __future__ import annotations

import os
import string
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import httpx

from asr_lightning.client.answers import Artifact
from asr_lightning.client.errors import DownloadError, ServerError
from asr_lightning.client.pack import BLOCK_BYTES, Progress, sha256_of
from asr_lightning.client.transport import AWAY, Transport


def download(
    transport: Transport, job_id: str, path: Path, name: str = "model.tar.gz", progress: Progress | None = None
) -> Path:
    """Download the artifact ``name``, and return the path of the file.

    Args:
        transport: Connection to the server.
        job_id: Id of a finished job.
        path: File to write, or a folder to write ``name`` into. Until it is complete, the data are in a file beside
            it that ends in ``.part``.
        name: Name of the artifact.
        progress: Called with the number of received bytes and the total.

    Raises:
        ValueError: The file exists already, or its folder does not exist.
        ServerError: The server refused the request, or has no such artifact.
        ConnectionFailedError: The download failed more often in a row than there are retries.
        DownloadError: The data differ from what the server announced.
    """
    target = path / name if path.is_dir() else path
    if target.exists():
        raise ValueError(f"{target} exists; name another file, or remove it first")
    if not target.parent.is_dir():
        raise ValueError(f"{target.parent}: there is no such folder; make it first")
    size, sha256 = size_and_hash(transport, job_id, name)
    # The hash in its name keeps the part of another artifact from being continued.
    part = target.with_name(f"{target.name}.{sha256[:12]}.part")
    route = f"/v1/jobs/{quote(job_id, safe='')}/artifacts/{quote(name, safe='')}"
    _fetch(transport, route, part, size, sha256, progress)
    if part.stat().st_size != size or sha256_of(part) != sha256:
        part.unlink()
        raise DownloadError(f"{target}: what arrived differs from what the server announced; download it again")
    part.replace(target)
    return target


def size_and_hash(transport: Transport, job_id: str, name: str) -> tuple[int, str]:
    """Size in bytes and sha256 of an artifact, as the server announces them.

    Raises:
        ServerError: The job has no artifact of that name, or not yet.
    """
    artifacts: list[Artifact] = transport.json("GET", f"/v1/jobs/{quote(job_id, safe='')}/artifacts")["data"]
    for artifact in artifacts:
        if artifact["name"] == name:
            if artifact.get("state", "ok") != "ok":
                lost = f"the server no longer has {name} of job {job_id} as it was trained"
                raise ServerError("artifact_damaged", lost, 410)
            sha256 = str(artifact["sha256"])
            if len(sha256) != 64 or set(sha256) - set(string.hexdigits):
                raise ServerError("bad_answer", f"the server gives no sha256 for {name}", 200)
            return int(artifact["size"]), sha256.lower()
    names = ", ".join(artifact["name"] for artifact in artifacts) or "none"
    raise ServerError("not_found", f"job {job_id} has no artifact {name}; it has: {names}", 404)


def _fetch(transport: Transport, route: str, part: Path, size: int, sha256: str, progress: Progress | None) -> None:
    """Append to ``part`` until it has ``size`` bytes.

    Raises:
        ServerError: The server refused the request.
        ConnectionFailedError: The download failed more often in a row than there are retries.
    """
    failures = 0
    # A model can give away the voice that it was trained on: only this user may read it.
    with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
        while (done := file.seek(0, os.SEEK_END)) < size:
            try:
                _receive(transport, route, file, size, sha256, progress)
            except (httpx.TransportError, ServerError) as error:
                if isinstance(error, ServerError) and error.status not in AWAY:
                    raise
                failures = 0 if file.tell() > done else failures + 1
                if failures > transport.retries:
                    raise transport.failed(error) from error
                transport.pause(failures)
        file.truncate(size)
        file.flush()
        os.fsync(file.fileno())
    with suppress(OSError):  # some filesystems cannot sync a folder
        folder = os.open(part.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _receive(
    transport: Transport, route: str, file: BinaryIO, size: int, sha256: str, progress: Progress | None
) -> None:
    """Append the bytes of one answer to ``file``; start again if the server sends the artifact from its start."""
    offset = file.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={offset}-", "If-Range": f'"{sha256}"'} if offset else {}
    with transport.stream(route, headers) as answer:
        if answer.status_code != 206:
            file.seek(0)
            file.truncate()
        elif not answer.headers.get("content-range", "").startswith(f"bytes {offset}-"):
            raise ServerError("bad_answer", "the server continues the download at another place", 206)
        for block in answer.iter_raw(BLOCK_BYTES):
            file.write(block)
            if progress:
                progress(min(file.tell(), size), size)
            if file.tell() > size:
                return
    if file.tell() < size:  # without a Content-Length, httpx takes a lost connection for the end
        raise httpx.RemoteProtocolError("the connection ended early")
