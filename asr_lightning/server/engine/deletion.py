"""Deletion of ended jobs: on request, or when the retention time is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from asr_lightning.durable import faults
from asr_lightning.server.engine import states
from asr_lightning.server.engine.errors import WrongStateError
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.store import Store


def purge(home: Home, store: Store, job: Job) -> dict[str, Any]:
    """Delete every byte of a job's data, model and logs; only its id, spec and dates stay.

    The store says so first: a crash after that is mended at the next start.

    Returns:
        ``id``, the ``deleted`` files relative to the home, and their ``bytes``.

    Raises:
        WrongStateError: It is under way: cancel it first.
    """
    folder = home.job(job.id)
    if job.state in states.ACTIVE:
        raise WrongStateError(job, "deleted")
    sizes = home.sizes(folder) if folder.exists() else {}
    if job.state != states.PURGED and store.purge(job) is None:
        raise WrongStateError(store.job(job.id), "deleted")
    faults.point("purge.recorded")
    home.discard(folder)
    store.shrink()
    return {"id": job.id, "deleted": sorted(sizes), "bytes": sum(sizes.values())}


def purge_old(home: Home, store: Store, retention_s: float) -> None:
    """Delete the jobs that ended more than ``retention_s`` seconds ago, by the wall clock."""
    limit = datetime.now(UTC) - timedelta(seconds=retention_s)
    for job in store.jobs(states.TERMINAL | {states.INTERRUPTED}):
        if job.ended_at is not None and datetime.fromisoformat(job.ended_at) < limit:
            purge(home, store, job)
