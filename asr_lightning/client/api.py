"""The client: one method for each request that the training server answers."""

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
from urllib.parse import quote

from asr_lightning.client import download as downloads
from asr_lightning.client.answers import Job, Model, Receipt, UploadState, Verdict
from asr_lightning.client.errors import ConnectionFailedError, ServerError
from asr_lightning.client.events import RESTING, Event, follow
from asr_lightning.client.pack import Progress, pack
from asr_lightning.client.transport import Transport
from asr_lightning.client.upload import STARTS, upload

TOKEN = "ASR_SERVER_TOKEN"
POLL_S = 1.0


class Client:
    """A connection to a training server.

    ``with Client("http://127.0.0.1:5553") as client: job = client.submit("recordings", "whisper-tiny.en")``

    Args:
        url: Address of the server.
        token: Access token of the server; by default that of the environment variable ``ASR_SERVER_TOKEN``, if any.
        retries: How often a request that may be sent twice is repeated.
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
            model: Name of a model that ``models()`` lists.
            language: Language of the recordings, such as ``de``; for multilingual models only.
            epochs: Number of epochs, 1 to 100; by default what the server recommends for the model.
            seed: Seed of the random split and of the training.
            key: Idempotency key: a repeated call with the same key returns the first one's job instead of creating
                another. By default a random key, which all retries of this call share.
            packing: Called with the number of packed recordings and the total.
            sending: Called with the number of sent bytes and the total.

        Raises:
            ValueError: The folder cannot be packed, or the key cannot be sent.
            ServerError: The server refused the request.
            ConnectionFailedError: The server did not answer, after all retries.
        """
        options = {"model": model, "language": language, "epochs": epochs, "seed": seed}
        spec = {name: value for name, value in options.items() if value is not None}
        headers = {"Idempotency-Key": require_valid_key(key or uuid.uuid4().hex)}
        with _archive(Path(data), packing) as archive:
            for start in range(STARTS):
                body = {**spec, "upload": upload(self._transport, archive, sending)}
                try:
                    return self._transport.json("POST", "/v1/jobs", json=body, headers=headers)
                except ServerError as error:
                    if error.status != 404 or start == STARTS - 1:  # a restarted server forgets uploads
                        raise
        raise AssertionError("unreachable")

    def validate(self, data: str | Path, packing: Progress | None = None) -> Verdict:
        """Inspect recordings on the server without training on them; returns the verdict and the issues.

        Raises:
            ValueError: The folder cannot be packed.
            ServerError: The server refused the recordings; ``details`` has the issues.
            ConnectionFailedError: The server did not answer, after all retries.
        """
        with _archive(Path(data), packing) as archive:
            return self._transport.attempt(lambda: self._transport.send_file("/v1/datasets/validate", archive))

    def jobs(self, state: str | None = None) -> Iterator[Job]:
        """All jobs, newest first; only those in ``state`` if one is given."""
        params = {"state": state} if state else {}
        while True:
            page = self._transport.json("GET", "/v1/jobs", params=params)
            yield from page["data"]
            if not page.get("next"):
                return
            params = {**params, "after": page["next"]}

    def job(self, job_id: str) -> Job:
        """The job with this id."""
        return self._transport.json("GET", _route(job_id))

    def cancel(self, job_id: str) -> Job:
        """Stop a job as soon as possible; a job that has ended stays as it is."""
        return self._transport.json("POST", _route(job_id, "cancel"))

    def resume(self, job_id: str) -> Job:
        """Continue a job that was interrupted, failed or cancelled, from its last good checkpoint."""
        try:
            return self._transport.json("POST", _route(job_id, "resume"), retry=False)
        except ConnectionFailedError:
            job = self.job(job_id)  # if only the answer was lost, the server would refuse a second resume
            if job["state"] in RESTING:
                raise
            return job

    def delete(self, job_id: str) -> Receipt:
        """Delete a job with its recordings and models; returns what was deleted."""
        return self._transport.json("DELETE", _route(job_id))

    def uploads(self) -> list[UploadState]:
        """The uploads that were begun and that no job has taken yet, the oldest first."""
        return self._transport.json("GET", "/v1/uploads")["data"]

    def delete_upload(self, upload_id: str) -> None:
        """Delete an upload that no job has taken."""
        if not upload_id.strip("."):
            raise ValueError("the id of the upload is empty; python -m asr_lightning remote uploads lists them")
        self._transport.json("DELETE", f"/v1/uploads/{quote(upload_id, safe='')}")

    def models(self) -> list[Model]:
        """The models that the server trains."""
        return self._transport.json("GET", "/v1/models")["data"]

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """The events of a job with numbers above ``after``, each one once, until the job rests."""
        return follow(self._transport, job_id, after)

    def logs(self, job_id: str, follow: bool = False, offset: int = 0, name: str = "trainer") -> Iterator[bytes]:
        """The log of a job from byte ``offset`` on, block by block.

        Args:
            job_id: Id of the job.
            follow: Wait for more until the job rests.
            offset: Number of bytes to skip.
            name: Whose log: ``trainer``, or ``intake`` for the inspection of the data.
        """
        while True:
            # Asked before the log is read: what the job wrote last is then not missed.
            is_last = not follow or self.job(job_id)["state"] in RESTING
            while True:
                answer = self._transport.get(_route(job_id, "logs"), params={"offset": offset, "name": name})
                offset = int(answer.headers.get("x-next-offset", offset + len(answer.content)))
                if not answer.content:
                    break
                yield answer.content
            if is_last:
                return
            time.sleep(POLL_S)

    def wait(self, job_id: str, on_poll: Callable[[Job], None] | None = None, poll_s: float = POLL_S) -> Job:
        """Wait until a job rests: succeeded, failed, cancelled or interrupted; returns it in that state.

        Args:
            job_id: Id of the job.
            on_poll: Called with the job each time its state has been asked for.
            poll_s: Seconds between two requests.
        """
        while True:
            job = self.job(job_id)
            if on_poll:
                on_poll(job)
            if job["state"] in RESTING:
                return job
            time.sleep(poll_s)

    def download(
        self, job_id: str, path: str | Path, name: str = "model.tar.gz", progress: Progress | None = None
    ) -> Path:
        """Download an artifact, complete and verified; see ``asr_lightning.client.download``."""
        return downloads.download(self._transport, job_id, Path(path), name, progress)


def require_valid_key(key: str) -> str:
    """``key``, if it can be sent as an idempotency key.

    Raises:
        ValueError: It is empty, longer than 255 characters, or has blanks or characters outside ASCII.
    """
    if not re.fullmatch(r"[!-~]{1,255}", key):
        raise ValueError(f"the key {key[:80]!r} must be 1 to 255 ASCII characters without blanks")
    return key


def _route(job_id: str, view: str = "") -> str:
    """Path of a job, or of a view of it.

    Raises:
        ValueError: The id is empty, which would make it the path of the list of jobs.
    """
    if not job_id.strip("."):
        raise ValueError("the id of the job is empty; python -m asr_lightning remote status lists the jobs")
    return f"/v1/jobs/{quote(job_id, safe='')}" + (f"/{view}" if view else "")


@contextmanager
def _archive(data: Path, packing: Progress | None) -> Iterator[Path]:
    """``data`` as a tar.gz: the file itself, or a temporary archive of the folder that only this user can read.

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
