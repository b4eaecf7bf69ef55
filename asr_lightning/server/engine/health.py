"""Whether a server can do its work: a full disk, writes that failed, and jobs that do not get on.

Deleting and cancelling must work on a full disk too, since nothing else frees space there.
"""

from __future__ import annotations

import errno
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from asr_lightning.job_folder.failure import Failure, is_full
from asr_lightning.job_folder.progress import Progress
from asr_lightning.server.engine import states
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.names import RESERVE
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.reserve import Reserve
from asr_lightning.server.engine.settings import EngineSettings

logger = logging.getLogger(__name__)

STUCK_S = 60.0
"""Seconds for which the steps of one job must have failed, or its cancellation be overdue, until it counts as stuck."""
SILENT_S = 3600.0
"""The same for a training whose progress does not change; the scoring of a large model on a CPU takes minutes."""
FAILED_S = 60.0
"""Seconds for which a failed write is reported as a trouble of the server."""
FILL_S = 5.0
"""Seconds between two attempts to take the reserve again."""
BROKEN = frozenset({errno.EROFS, errno.EIO})
SQLITE_FULL = ("disk is full", "disk I/O error")
T = TypeVar("T")


@dataclass(frozen=True)
class Trouble:
    """Something that keeps the server from its work.

    Attributes:
        code: The kind, for programs.
        message: What is wrong and what to do, for people.
        job: Id of the job that is concerned; None if all are.
    """

    code: Literal["disk_full", "failed_writes", "stuck_job"]
    message: str
    job: str | None = None


class Health:
    """What is known of the health of a server. Several threads may use it.

    Args:
        home: The server's home.
        settings: Settings of the engine.

    Attributes:
        reserve: The space that is kept for deleting and cancelling.
        failed_writes: Number of writes that failed since the start.
    """

    def __init__(self, home: Home, settings: EngineSettings) -> None:
        self._home, self._settings = home, settings
        self.reserve = Reserve(home.path / RESERVE, settings.reserve_bytes)
        self.failed_writes = 0
        self._failed_at, self._next_fill = -FAILED_S, 0.0
        self._lock = threading.Lock()
        self._errors: dict[str, tuple[float, str]] = {}  # since when the steps of a job fail, and why
        self._news: dict[
            str, tuple[tuple[str, int, Progress | None], float]
        ] = {}  # the last state and progress of a job, and since when

    def insist(self, action: Callable[[], T], last_resort: Callable[[], T]) -> T:
        """The result of ``action``: on a full disk the reserve is given up for it, and then ``last_resort`` is called.

        Raises:
            Exception: What ``action`` raised for another reason, or what ``last_resort`` raised.
        """
        for attempt in (action, action):
            try:
                return attempt()
            except (OSError, sqlite3.Error) as error:
                self.note(error)
                if not is_disk_full(error):
                    raise
                self.reserve.release()
        return last_resort()

    def note(self, error: BaseException) -> None:
        """Count ``error`` if it is a write that failed."""
        if is_failed_write(error):
            with self._lock:
                self.failed_writes += 1
                self._failed_at = time.monotonic()

    def failed(self, job: Job, error: Exception) -> None:
        """A step of ``job`` failed. It is logged once, and on a full disk the reserve is given up for the next try."""
        self.note(error)
        if is_disk_full(error):
            self.reserve.release()
        message = f"{type(error).__name__}: {error}"
        since, before = self._errors.get(job.id, (time.monotonic(), ""))
        if message != before:
            logger.error("job %s: trying again", job.id, exc_info=error)
        with self._lock:
            self._errors[job.id] = since, message

    def worked(self, job: Job) -> None:
        """A step of ``job`` worked."""
        with self._lock:
            self._errors.pop(job.id, None)
        if job.state not in states.TRAINING:
            self._note_news(job, None)

    def saw(self, job: Job, progress: Progress) -> None:
        """The trainer of ``job`` reported ``progress``, which may be the one before."""
        self._note_news(job, progress)

    def _note_news(self, job: Job, progress: Progress | None) -> None:
        news = job.state, job.attempt, progress
        with self._lock:
            if job.id not in self._news or self._news[job.id][0] != news:
                self._news[job.id] = news, time.monotonic()

    def tend(self, active: set[str]) -> None:
        """Forget the jobs that are no longer ``active``, and take the reserve again once there is space."""
        with self._lock:
            self._errors = {job_id: error for job_id, error in self._errors.items() if job_id in active}
            self._news = {job_id: news for job_id, news in self._news.items() if job_id in active}
        if time.monotonic() >= self._next_fill:
            self._next_fill = time.monotonic() + FILL_S
            if self.free() >= self._settings.min_free_bytes + self._settings.reserve_bytes:
                self.reserve.fill()

    def free(self) -> int:
        """Bytes that are free on the disk of the home."""
        return shutil.disk_usage(self._home.path).free

    def troubles(self) -> list[Trouble]:
        """What keeps the server from its work at the moment."""
        troubles = []
        free, needed = self.free(), self._settings.min_free_bytes
        if free < needed:
            message = (
                f"{free >> 20} MiB are free on the server's disk, and {needed >> 20} are kept free: delete old jobs"
            )
            troubles.append(Trouble("disk_full", message))
        with self._lock:
            if time.monotonic() - self._failed_at < FAILED_S:
                message = f"a write failed just now, and {self.failed_writes} since the start: look at the log"
                troubles.append(Trouble("failed_writes", message))
            return troubles + [
                stuck for job_id in sorted({*self._errors, *self._news}) if (stuck := self._stuck(job_id))
            ]

    def _stuck(self, job_id: str) -> Trouble | None:
        now = time.monotonic()
        if job_id in self._errors and now - self._errors[job_id][0] > STUCK_S:
            kind = self._errors[job_id][1].partition(":")[0]  # the rest may name paths of the host
            return Trouble("stuck_job", f"no step of this job works ({kind}): the log says why; cancel it", job_id)
        (state, _, _), since = self._news.get(job_id, (("", 0, None), now))
        if state == states.CANCELLING and now - since > self._settings.grace_s + STUCK_S:
            return Trouble("stuck_job", "this job cannot be ended: a process of it is left", job_id)
        if state in states.TRAINING and now - since > SILENT_S:
            return Trouble("stuck_job", f"no progress for {(now - since) / 60:.0f} minutes: look at its log", job_id)
        return None


def is_failed_write(error: BaseException) -> bool:
    """Whether ``error`` says that the disk is full, cannot be written, or fails."""
    if isinstance(error, sqlite3.OperationalError):
        return any(word in str(error) for word in ("disk", "readonly"))
    return isinstance(error, OSError) and (is_full(error) or error.errno in BROKEN)


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error`` says that the disk is full; SQLite calls that an I/O error where it cannot extend a file."""
    if isinstance(error, sqlite3.OperationalError):
        return any(text in str(error) for text in SQLITE_FULL)
    return is_full(error)


def launch_failure(error: Exception) -> Failure:
    """The failure of a job whose worker could not be started."""
    if is_full(error):
        return Failure("disk_full", "the server's disk is full: delete old jobs")
    name = Path(str(error.filename)).name if isinstance(error, OSError) and error.filename else ""
    return Failure("internal", f"the worker could not be started ({type(error).__name__}{name and ': ' + name})")
