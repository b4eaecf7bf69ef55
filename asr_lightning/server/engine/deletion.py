"""Deletion of ended jobs: on request, or when the retention time is over."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from asr_lightning.durable import faults
from asr_lightning.server.engine import states
from asr_lightning.server.engine.errors import WrongStateError
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.store import Store


@dataclass(frozen=True)
class Receipt:
    """What a deletion removed.

    Attributes:
        id: Id of the job.
        deleted: The deleted files, relative to the server's home.
        bytes: Their total size.
    """

    id: str
    deleted: list[str]
    bytes: int

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
    if files_first:
        home.discard(folder)
    if job.state != states.PURGED and store.purge(job) is None:
        raise WrongStateError(store.job(job.id), "deleted")
    faults.point("purge.recorded")
    home.discard(folder)
    store.shrink()
    return Receipt(job.id, sorted(sizes), sum(sizes.values()))


def purge_old(home: Home, store: Store, retention_s: float) -> None:
    """Delete the jobs that ended more than ``retention_s`` seconds ago, by the wall clock."""
    limit = datetime.now(UTC) - timedelta(seconds=retention_s)
    for job in store.jobs(states.TERMINAL | {states.INTERRUPTED}):
        if job.ended_at is not None and datetime.fromisoformat(job.ended_at) < limit:
            purge(home, store, job)
