"""A file onto the server in pieces: a cut connection costs one piece at most."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from asr_lightning.client.errors import ServerError
from asr_lightning.client.pack import Progress
from asr_lightning.client.transport import AWAY, Transport

PIECE = 2 << 20  # bytes: at 50 kB/s within the 100 s after which RunPod's proxy closes a connection
STARTS = 3  # a server that is restarted forgets what it had


def upload(transport: Transport, archive: Path, progress: Progress | None = None) -> str:
    """Send ``archive``, and return the id of the upload.

    Raises:
        ServerError: The server refused, or forgot the upload each time.
        ConnectionFailedError: No answer after all retries.
    """
    for start in range(STARTS):
        upload_id = str(transport.json("POST", "/v1/uploads", json={"size": archive.stat().st_size})["id"])
        try:
            send_rest(transport, upload_id, archive, progress)
        except ServerError as error:
            if error.status != 404 or start == STARTS - 1:
                raise
        else:
            return upload_id
    raise AssertionError("unreachable")


def send_rest(transport: Transport, upload_id: str, archive: Path, progress: Progress | None = None) -> None:
    """Send what the server lacks of ``archive``; after each failure it is asked how much it has.

    Raises:
        ServerError: The server refused.
        ConnectionFailedError: No answer after as many failures in a row as there are retries.
    """
    path = f"/v1/uploads/{upload_id}"
    total, failures = archive.stat().st_size, 0
    received = _received(transport.json("GET", path), total)
    with archive.open("rb") as file:
        while received < total:
            file.seek(received)
            error: Exception | None = None
            try:
                answer = _put(transport, path, received, file.read(PIECE))
            except (httpx.TransportError, ServerError) as caught:
                if isinstance(caught, ServerError) and caught.status not in AWAY:
                    raise
                error, answer = caught, None
            if error is None and _received(answer, total) > received:
                received, failures = _received(answer, total), 0
                if progress:
                    progress(received, total)
                continue
            # No piece arrived whole. The server may still wait for the rest of it, and says "busy" until it notices.
            if failures >= transport.retries:
                raise transport.failed(error or ServerError("busy", "the upload is held by another request", 409))
            transport.pause(failures)
            failures += 1
            received = _received(transport.json("GET", path), total)


def _put(transport: Transport, path: str, offset: int, piece: bytes) -> Any:
    """The answer to one piece; a server that has another length says so, and that is an answer too."""
    try:
        return transport.once(
            "PUT", path, params={"offset": offset}, content=piece, headers={"Content-Type": "application/octet-stream"}
        )
    except ServerError as error:
        if error.status == 409 and isinstance(error.details.get("received"), int):
            return error.details
        raise


def _received(answer: Any, total: int) -> int:
    """How many bytes the server has.

    Raises:
        ServerError: More than there are.
    """
    received = answer.get("received") if isinstance(answer, dict) else None
    if not isinstance(received, int) or not 0 <= received <= total:
        raise ServerError("bad_answer", f"the server says it has {received!r} of {total} bytes; submit again", 200)
    return received
