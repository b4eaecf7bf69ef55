"""Deletion of ended jobs: on request, or when the retention time is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from asr_lightning.durable import faults
from asr_lightning.server.engine import states
from asr_lightning.server.engine.errors import WrongStateError
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Job, now
from asr_lightning.server.engine.store import Store


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
    if files_first:
        home.discard(folder)
    if job.state != states.PURGED and store.purge(job) is None:
        raise WrongStateError(store.job(job.id), "deleted")
    faults.point("purge.recorded")
    home.discard(folder)
    home.empty_trash()  # an earlier attempt may have moved the folder there
    sizes |= _delete_copies(home)
    store.shrink()
    dataset_sha256 = job.dataset["sha256"] if job.dataset else None
    return Receipt(
        job.id, sorted(sizes), sum(sizes.values()), job.created_at, job.ended_at, now(), job.artifacts, dataset_sha256
    )


def _delete_copies(home: Home) -> dict[str, int]:
    """Delete the damaged stores that earlier starts put aside, which may name this job's clips; returns their sizes.

    Nothing can be deleted from a damaged store in part. All that it held was read from the jobs' folders since.
    """
    sizes = {}
    for path in home.path.glob("state.db.damaged*"):
        if path.is_file() and not path.is_symlink():
            sizes[path.name] = path.stat().st_size
            path.unlink(missing_ok=True)
    return sizes


def purge_old(home: Home, store: Store, retention_s: float) -> None:
    """Delete the jobs that ended more than ``retention_s`` seconds ago, by the wall clock."""
    limit = datetime.now(UTC) - timedelta(seconds=retention_s)
    for job in store.jobs(states.TERMINAL | {states.INTERRUPTED}):
        if job.ended_at is not None and datetime.fromisoformat(job.ended_at) < limit:
            purge(home, store, job)
