"""An artifact to a file: goes on where a cut connection left off, and is there only when its sha256 is right."""

from __future__ import annotations

import os
import string
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import httpx

from asr_lightning.client.errors import DownloadError, ServerError
from asr_lightning.client.pack import COPIED, Progress, sha256_of
from asr_lightning.client.transport import AWAY, Transport


def download(
    transport: Transport, job_id: str, path: Path, name: str = "model.tar.gz", progress: Progress | None = None
) -> Path:
    """Fetch the artifact ``name``, and return where it is.

    Args:
        transport: Connection.
        job_id: A finished job.
        path: File to write, or a folder to write ``name`` into. What arrives is kept beside it as ``….part``.
        name: One of the job's artifacts.
        progress: Told the bytes done, and their number.

    Raises:
        ValueError: The file exists, or its folder does not.
        ServerError: The server refused, or has no such artifact.
        ConnectionFailedError: No answer after as many failures in a row as there are retries.
        DownloadError: The bytes are not those that the server announced.
    """
    target = path / name if path.is_dir() else path
    if target.exists():
        raise ValueError(f"{target} exists; name another file, or remove it first")
    if not target.parent.is_dir():
        raise ValueError(f"{target.parent}: there is no such folder; make it first")
    size, sha256 = announced(transport, job_id, name)
    part = target.with_name(f"{target.name}.{sha256[:12]}.part")  # another artifact's part is never continued
    route = f"/v1/jobs/{quote(job_id, safe='')}/artifacts/{quote(name, safe='')}"
    _fetch(transport, route, part, size, sha256, progress)
    if part.stat().st_size != size or sha256_of(part) != sha256:
        part.unlink()
        raise DownloadError(f"{target}: what arrived differs from what the server announced; download it again")
    part.replace(target)
    return target


def announced(transport: Transport, job_id: str, name: str) -> tuple[int, str]:
    """Bytes and sha256 of an artifact.

    Raises:
        ServerError: There is none of that name, or none yet.
    """
    listed = transport.json("GET", f"/v1/jobs/{quote(job_id, safe='')}/artifacts")["data"]
    for artifact in listed:
        if artifact["name"] == name:
            sha256 = str(artifact["sha256"])
            if len(sha256) != 64 or set(sha256) - set(string.hexdigits):
                raise ServerError("bad_answer", f"the server gives no sha256 for {name}", 200)
            return int(artifact["size"]), sha256.lower()
    names = ", ".join(artifact["name"] for artifact in listed) or "none"
    raise ServerError("not_found", f"job {job_id} has no artifact {name}; it has: {names}", 404)


def _fetch(transport: Transport, route: str, part: Path, size: int, sha256: str, progress: Progress | None) -> None:
    """Fill ``part`` up to ``size`` bytes.

    Raises:
        ServerError: The server refused.
        ConnectionFailedError: No answer after as many failures in a row as there are retries.
    """
    failures = 0
    # Only its owner may read a model of someone's voice.
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
    with suppress(OSError):  # not every filesystem can
        folder = os.open(part.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _receive(transport: Transport, route: str, file, size: int, sha256: str, progress: Progress | None) -> None:
    """Append one answer's bytes, from the start again where the server does not continue."""
    offset = file.seek(0, os.SEEK_END)
    headers = {"Range": f"bytes={offset}-", "If-Range": f'"{sha256}"'} if offset else {}
    with transport.stream(route, headers) as answer:
        if answer.status_code != 206:
            file.seek(0)
            file.truncate()
        elif not answer.headers.get("content-range", "").startswith(f"bytes {offset}-"):
            raise ServerError("bad_answer", "the server continues the download at another place", 206)
        for block in answer.iter_raw(COPIED):
            file.write(block)
            if progress:
                progress(min(file.tell(), size), size)
            if file.tell() > size:
                return
    if file.tell() < size:  # an answer without a length ends like a whole one
        raise httpx.RemoteProtocolError("the connection ended early")
