"""What a server does at its start: rebuild a damaged store from the job folders, and clean up after a crash."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import replace
from pathlib import Path

from asr_lightning.durable.ids import is_id
from asr_lightning.durable.locks import is_held
from asr_lightning.job_folder import layout, processes
from asr_lightning.job_folder.assignment import Assignment
from asr_lightning.job_folder.ending import Ending
from asr_lightning.job_folder.intake_report import IntakeReport
from asr_lightning.job_folder.worker import is_cancelled
from asr_lightning.server.engine import states
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.store import Store
from asr_lightning.server.engine.submission import Submission

logger = logging.getLogger(__name__)


def open_store(home: Home) -> Store:
    """The store of ``home``. A damaged one is put aside, and all jobs are read from their folders."""
    exists = home.store.exists()
    try:
        store = Store(home.store)
    except sqlite3.OperationalError:
        raise  # locked, full or unreadable, but not damaged
    except sqlite3.DatabaseError as error:
        logger.warning("the job store is damaged (%s): it is rebuilt from the job folders", error)
        home.store.replace(home.store.with_name("state.db.damaged"))
        for suffix in ("-wal", "-shm"):
            home.store.with_name(f"state.db{suffix}").unlink(missing_ok=True)
        store, exists = Store(home.store), False
    if not exists:
        _rebuild(home, store)
    return store


def clean(home: Home, store: Store) -> None:
    """Remove what no job refers to: partial uploads, folders that the store never took, unfinished deletions."""
    home.empty_trash()
    for path in home.uploads.iterdir():
        processes.end_all(path.name)  # an inspection of data that outlived the server
        home.discard(path)
    state_of = {job.id: job.state for job in store.jobs()}
    for folder in home.jobs():
        if state_of.get(folder.name, states.PURGED) == states.PURGED:
            home.discard(folder)


def _rebuild(home: Home, store: Store) -> None:
    submissions = [submission for folder in home.jobs() if (submission := _submission(folder)) is not None]
    for submission in sorted(submissions, key=lambda each: (each.created_at, each.id)):
        job = _job_of(submission, home.job(submission.id))
        store.restore(job, submission.key, submission.body_hash)
        logger.info("job %s was read from its folder: %s", job.id, job.state)


def _submission(folder: Path) -> Submission | None:
    submission = Submission.read(folder) if is_id(folder.name) else None
    if submission is None:
        logger.warning("%s holds no whole request.json: it was never acknowledged", folder.name)
    return submission


def _job_of(submission: Submission, folder: Path) -> Job:
    """The job in ``folder``, in the state that its files prove."""
    assignment, intake = _assignment(folder), IntakeReport.read(folder)
    job = Job(
        id=submission.id,
        state=states.CREATED if intake is None else states.QUEUED,
        attempt=assignment.attempt if assignment else 0,
        source=submission.source,
        owner=submission.owner,
        spec=submission.spec,
        created_at=submission.created_at,
        dataset=intake.dataset if intake else None,
        artifacts={},
    )
    cancelled, ending = is_cancelled(folder), Ending.read(folder, job.attempt)
    if is_held(folder / layout.WORKER_LOCK):
        state = states.CANCELLING if cancelled else (states.PREPARING if job.attempt else states.VALIDATING)
        return replace(job, state=state, device=assignment.device if assignment else None)
    if cancelled:
        return replace(job, state=states.CANCELLED)
    if ending is not None and ending.succeeded:
        return replace(job, state=states.SUCCEEDED, metrics=ending.metrics, artifacts=ending.artifacts)
    if ending is not None:
        return replace(job, state=states.FAILED, error=ending.error)
    if intake is not None and intake.error is not None:
        return replace(job, state=states.FAILED, error=intake.error)
    return replace(job, state=states.INTERRUPTED) if job.attempt else job


def _assignment(folder: Path) -> Assignment | None:
    """The task of the last trainer; None if none was started."""
    try:
        return Assignment.read(folder)
    except ValueError:
        return None
