"""The client: one method for each thing that can be asked of a training server."""

from __future__ import annotations

import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from asr_lightning.client import download as downloads
from asr_lightning.client.errors import ConnectionFailedError, ServerError
from asr_lightning.client.events import RESTING, Event, follow
from asr_lightning.client.pack import Progress, pack
from asr_lightning.client.transport import Transport
from asr_lightning.client.upload import STARTS, upload

TOKEN = "ASR_SERVER_TOKEN"
POLL_S = 1.0
Job = dict[str, Any]
"""A job as the server describes it; its fields are in ``docs/server.md``."""


class Client:
    """A training server.

    ``with Client("http://127.0.0.1:5553") as client: job = client.submit("recordings", "whisper-tiny.en")``

    Args:
        url: Address of the server.
        token: Its token; without one ``ASR_SERVER_TOKEN``, without that none.
        retries: Attempts after the first, for whatever may be sent twice.
        pause_s: Seconds before the first retry; each further one waits twice as long, at most 20 times the first.
    """

    def __init__(self, url: str, token: str | None = None, retries: int = 8, pause_s: float = 0.5) -> None:
        self._transport = Transport(url, token or os.environ.get(TOKEN), retries, pause_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._transport.url!r})"

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()

    def submit(
        self,
        data: str | Path,
        model: str,
        language: str | None = None,
        epochs: int | None = None,
        seed: int | None = None,
        key: str | None = None,
        packing: Progress | None = None,
        sending: Progress | None = None,
    ) -> Job:
        """Send recordings for training; the job is safe on the server when this returns.

        Args:
            data: Audio folder, or a tar.gz of one.
            model: A name of ``models()``.
            language: Of a multilingual model, such as ``de``.
            epochs: 1 to 100.
            seed: Of split and training.
            key: No second job is made with it; made up when not given, and kept for all retries of this call.
            packing: Told the recordings packed, and their number.
            sending: Told the bytes sent, and their number.

        Raises:
            ValueError: The folder cannot be sent as it is.
            ServerError: The server refused.
            ConnectionFailedError: No answer after all retries.
        """
        given = {"model": model, "language": language, "epochs": epochs, "seed": seed}
        spec = {name: value for name, value in given.items() if value is not None}
        headers = {"Idempotency-Key": check_key(key or uuid.uuid4().hex)}
        with _archive(Path(data), packing) as archive:
            for start in range(STARTS):
                body = {**spec, "upload": upload(self._transport, archive, sending)}
                try:
                    return self._transport.json("POST", "/v1/jobs", json=body, headers=headers)
                except ServerError as error:
                    if error.status != 404 or start == STARTS - 1:  # a restarted server forgets uploads
                        raise
        raise AssertionError("unreachable")

    def validate(self, data: str | Path, packing: Progress | None = None) -> dict[str, Any]:
        """Check recordings on the server without training: its verdict and issues.

        Raises:
            ValueError: The folder cannot be sent as it is.
            ServerError: The server refused.
            ConnectionFailedError: No answer after all retries.
        """
        with _archive(Path(data), packing) as archive:
            return self._transport.attempt(lambda: self._transport.send_file("/v1/datasets/validate", archive))

    def jobs(self, state: str | None = None) -> Iterator[Job]:
        """Every job, the newest first."""
        params = {"state": state} if state else {}
        while True:
            page = self._transport.json("GET", "/v1/jobs", params=params)
            yield from page["data"]
            if not page.get("next"):
                return
            params = {**params, "after": page["next"]}

    def job(self, job_id: str) -> Job:
        """One job."""
        return self._transport.json("GET", _route(job_id))

    def cancel(self, job_id: str) -> Job:
        """End a job as soon as possible; what is over stays as it is."""
        return self._transport.json("POST", _route(job_id, "cancel"))

    def resume(self, job_id: str) -> Job:
        """Go on from the last good checkpoint of a job that was interrupted, failed or cancelled."""
        try:
            return self._transport.json("POST", _route(job_id, "resume"), retry=False)
        except ConnectionFailedError:
            job = self.job(job_id)  # a second resume would be refused if only the answer was lost
            if job["state"] in RESTING:
                raise
            return job

    def delete(self, job_id: str) -> dict[str, Any]:
        """Delete a job with its recordings and models; returns the receipt."""
        return self._transport.json("DELETE", _route(job_id))

    def models(self) -> list[dict[str, Any]]:
        """The models that the server trains."""
        return self._transport.json("GET", "/v1/models")["data"]

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """What happens to a job after event ``after``, each event once, until the job rests."""
        return follow(self._transport, job_id, after)

    def logs(self, job_id: str, follow: bool = False, offset: int = 0, name: str = "trainer") -> Iterator[bytes]:
        """The log of the trainer or the intake from byte ``offset`` on; with ``follow`` until the job rests."""
        while True:
            over = not follow or self.job(job_id)["state"] in RESTING  # before the last look
            while True:
                answer = self._transport.get(_route(job_id, "logs"), params={"offset": offset, "name": name})
                offset = int(answer.headers.get("x-next-offset", offset + len(answer.content)))
                if not answer.content:
                    break
                yield answer.content
            if over:
                return
            time.sleep(POLL_S)

    def wait(self, job_id: str, told: Callable[[Job], None] | None = None, poll_s: float = POLL_S) -> Job:
        """The job when it rests: succeeded, failed, cancelled or interrupted.

        Args:
            job_id: The job.
            told: Called with the job at each look.
            poll_s: Seconds between looks.
        """
        while True:
            job = self.job(job_id)
            if told:
                told(job)
            if job["state"] in RESTING:
                return job
            time.sleep(poll_s)

    def download(
        self, job_id: str, path: str | Path, name: str = "model.tar.gz", progress: Progress | None = None
    ) -> Path:
        """Fetch an artifact, complete and verified; see ``asr_lightning.client.download``."""
        return downloads.download(self._transport, job_id, Path(path), name, progress)


def check_key(key: str) -> str:
    """``key`` if it can be sent.

    Raises:
        ValueError: It is empty, longer than 255 characters, or holds blanks or other than ASCII characters.
    """
    if not re.fullmatch(r"[!-~]{1,255}", key):
        raise ValueError(f"the key {key[:80]!r} must be 1 to 255 ASCII characters without blanks")
    return key


def _route(job_id: str, view: str = "") -> str:
    """Path of a job, or of a view of it.

    Raises:
        ValueError: The id is empty: the path would be that of the list.
    """
    if not job_id.strip("."):
        raise ValueError("the id of the job is empty; python -m asr_lightning remote status lists the jobs")
    return f"/v1/jobs/{quote(job_id, safe='')}" + (f"/{view}" if view else "")


@contextmanager
def _archive(data: Path, packing: Progress | None) -> Iterator[Path]:
    """``data`` as a tar.gz: itself, or a temporary one that only its owner can read.

    Raises:
        ValueError: It is neither a folder nor a gzip file.
    """
    with ExitStack() as stack:
        if data.is_dir():
            target = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="asr-"))) / "data.tar.gz"
            pack(data, target, packing)
            yield target
            return
        if not data.is_file():
            raise ValueError(f"{data}: there is no such folder or archive; check the path")
        with data.open("rb") as file:
            if file.read(2) != b"\x1f\x8b":
                raise ValueError(f"{data} is no tar.gz; give the folder of recordings itself, it is packed for you")
        yield data
