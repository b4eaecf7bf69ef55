"""Deletion of ended jobs: on request, or when the retention time is over."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from asr_lightning.durable import faults
from asr_lightning.server.engine import clock, names, receipts, states
from asr_lightning.server.engine.clock import Clock
from asr_lightning.server.engine.errors import WrongStateError
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Job, now
from asr_lightning.server.engine.store import Store

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 5
"""The most jobs that one sweep deletes: whoever set the wrong number of days has the time to see it."""


@dataclass(frozen=True)
class Receipt:
    """What a deletion removed.

    Attributes:
        id: Id of the job.
        deleted: The deleted files, relative to the server's home.
        bytes: Their total size.
        created_at, ended_at, deleted_at: UTC, ISO 8601.
        artifacts: SHA-256 of each artifact, by name.
        dataset_sha256: Hash of the recordings, texts and splits; None if they were never read.
    """

    id: str
    deleted: list[str]
    bytes: int
    created_at: str
    ended_at: str | None
    deleted_at: str
    artifacts: Mapping[str, str]
    dataset_sha256: str | None

    def as_dict(self) -> dict[str, object]:
        """The receipt as a JSON object."""
        return asdict(self)


def purge(home: Home, store: Store, job: Job, files_first: bool = False) -> Receipt:
    """Delete every byte of a job's data, model and logs; only its id, its specification and its dates stay.

    The store records the deletion first: the next start of the server finishes one that a crash cut short. On a full
    disk ``files_first`` frees the space that the record needs.

    Raises:
        WrongStateError: The job is active: cancel it first.
    """
    folder = home.job(job.id)
    if job.state in states.ACTIVE:
        raise WrongStateError(job, "deleted")
    sizes = home.sizes(folder) if folder.exists() else {}
    if job.state != states.PURGED:
        receipts.begin(home, job, len(sizes), sum(sizes.values()))
        faults.point("purge.begun")
    if files_first:
        home.discard(folder)
    if job.state != states.PURGED and store.purge(job) is None:
        raise WrongStateError(store.job(job.id), "deleted")
    faults.point("purge.recorded")
    home.discard(folder)
    home.empty_trash()  # an earlier attempt may have moved the folder there
    sizes |= _delete_copies(home)
    store.shrink()
    receipts.end(home, job.id)
    dataset_sha256 = job.dataset.get("sha256") if job.dataset else None
    return Receipt(
        job.id, sorted(sizes), sum(sizes.values()), job.created_at, job.ended_at, now(), job.artifacts, dataset_sha256
    )


def _delete_copies(home: Home) -> dict[str, int]:
    """Delete the damaged stores that earlier starts put aside, which may name this job's clips; returns their sizes.

    Nothing can be deleted from a damaged store in part. All that it held was read from the jobs' folders since.
    """
    sizes = {}
    for path in home.path.glob(f"{names.DAMAGED_STORE}*"):
        if path.is_file() and not path.is_symlink():
            sizes[path.name] = path.stat().st_size
            path.unlink(missing_ok=True)
    return sizes


class Retention:
    """Deletes jobs some time after their end. Times that cannot be right delete nothing, and are named.

    Args:
        home: The server's home.
        store: The store of the jobs.
        retention_s: Seconds after its end until a job is deleted; None keeps all jobs.
    """

    def __init__(self, home: Home, store: Store, retention_s: float | None) -> None:
        self.home, self.store = home, store
        self.retention = None if retention_s is None else timedelta(seconds=retention_s)
        known = _time(store.newest_time())
        self.clock = Clock(home.path / clock.FILE, known, self.retention or clock.LONGEST_LOOK)
        self._named: set[str] = set()

    def sweep(self) -> None:
        """Delete the jobs whose time is over, the oldest first and at most ``MOST_AT_ONCE``."""
        if not self.clock.look() or self.retention is None:
            return
        ended = self.store.jobs(states.TERMINAL | {states.INTERRUPTED})
        ages = {job.id: age for job in ended if (age := self._age(job)) is not None and age > self.retention}
        due = sorted((job for job in ended if job.id in ages), key=lambda job: ages[job.id], reverse=True)
        if len(due) > MOST_AT_ONCE:
            logger.warning("--retention deletes %d jobs, %d of them now and the others later", len(due), MOST_AT_ONCE)
        for job in due[:MOST_AT_ONCE]:
            try:
                purge(self.home, self.store, job)
            except (OSError, sqlite3.Error, WrongStateError):
                logger.exception("job %s is old and could not be deleted: trying again", job.id)
            else:
                logger.info("job %s ended at %s, and was deleted after %s", job.id, job.ended_at, self.retention)

    def _age(self, job: Job) -> timedelta | None:
        """How long ago the job ended; None, and named, if it does not say so or says a time in the future."""
        ended_at = _time(job.ended_at)
        age = None if ended_at is None else self.clock.age(ended_at)
        if age is None and job.id not in self._named:
            self._named.add(job.id)
            logger.warning("job %s ended at %s, which cannot be right: --retention keeps it", job.id, job.ended_at)
        return age


def _time(text: str | None) -> datetime | None:
    """The time that the store holds as ``text``; None if it is missing or damaged."""
    try:
        time = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time if time.tzinfo else None
