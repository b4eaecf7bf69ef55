"""Upload of a file in pieces: a lost connection costs at most one of them."""

from __future__ import annotations

from pathlib import Path

import httpx

from asr_lightning.client.answers import UploadState
from asr_lightning.client.errors import ServerError
from asr_lightning.client.pack import Progress
from asr_lightning.client.transport import AWAY, Transport

PIECE_BYTES = 2 << 20  # takes 42 s at 50 kB/s; RunPod's proxy closes a connection after 100 s
STARTS = 3  # a restarted server forgets unfinished uploads


def upload(transport: Transport, archive: Path, progress: Progress | None = None) -> str:
    """Send ``archive``, and return the id of the upload.

    Raises:
        ServerError: The server refused the upload, or forgot it each time.
        ConnectionFailedError: The server did not answer, after all retries.
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
    """Send the part of ``archive`` that the server does not have; ask it after each failure how much it has.

    Raises:
        ServerError: The server refused the upload.
        ConnectionFailedError: The upload failed more often in a row than there are retries.
    """
    path = f"/v1/uploads/{upload_id}"
    total, failures = archive.stat().st_size, 0
    received = _received(transport.json("GET", path), total)
    with archive.open("rb") as file:
        while received < total:
            file.seek(received)
            error: Exception | None = None
            answer: UploadState | None = None
            try:
                answer = _put(transport, path, received, file.read(PIECE_BYTES))
            except (httpx.TransportError, ServerError) as caught:
                if isinstance(caught, ServerError) and caught.status not in AWAY:
                    raise
                error = caught
            if error is None and _received(answer, total) > received:
                received, failures = _received(answer, total), 0
                if progress:
                    progress(received, total)
                continue
            # The piece did not arrive whole. The server may still wait for its rest, and is "busy" until it gives up.
            if failures >= transport.retries:
                raise transport.failed(error or ServerError("busy", "the upload is held by another request", 409))
            transport.pause(failures)
            failures += 1
            received = _received(transport.json("GET", path), total)


def _put(transport: Transport, path: str, offset: int, piece: bytes) -> UploadState:
    """Send one piece. A refusal that says how much the server has is returned like an answer."""
    try:
        return transport.once(
            "PUT", path, params={"offset": offset}, content=piece, headers={"Content-Type": "application/octet-stream"}
        )
    except ServerError as error:
        if error.status == 409 and isinstance(error.details.get("received"), int):
            return {"received": error.details["received"]}
        raise


def _received(answer: UploadState | None, total: int) -> int:
    """How many bytes the server has received.

    Raises:
        ServerError: The answer has no such number, or one above ``total``.
    """
    received = answer.get("received") if isinstance(answer, dict) else None
    if not isinstance(received, int) or not 0 <= received <= total:
        raise ServerError("bad_answer", f"the server says it has {received!r} of {total} bytes; submit again", 200)
    return received
