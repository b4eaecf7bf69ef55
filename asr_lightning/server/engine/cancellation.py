"""Cancellation of jobs on request, on a full disk too."""

from __future__ import annotations

from dataclasses import replace

from asr_lightning.durable import faults
from asr_lightning.server.engine import states
from asr_lightning.server.engine.records import Job, now
from asr_lightning.server.engine.store import Store
from asr_lightning.server.engine.supervisor import Supervisor


def cancel(store: Store, supervisor: Supervisor, job_id: str) -> Job:
    """Record that a job is to be cancelled, which the supervisor then does; a job that has ended stays as it is.

    Raises:
        NoSuchJobError: There is no such job.
    """
    while True:
        job = store.job(job_id)
        if job.state not in states.ACTIVE | {states.INTERRUPTED} or job.state == states.CANCELLING:
            return job
        if job.state == states.INTERRUPTED:
            changed = store.change(job, states.CANCELLED, ended_at=now())
        else:
            changed = store.change(job, states.CANCELLING)
        faults.point("cancel.recorded")
        if changed:
            supervisor.wake.set()
            return changed


def cancel_unrecorded(store: Store, supervisor: Supervisor, job_id: str) -> Job:
    """Have a job cancelled although the disk is too full to record that; the end is recorded once there is space.

    Raises:
        NoSuchJobError: There is no such job.
    """
    job = store.job(job_id)
    if job.state not in states.ACTIVE:
        return job
    supervisor.unrecorded.add(job.id)
    supervisor.wake.set()
    return replace(job, state=states.CANCELLING)
