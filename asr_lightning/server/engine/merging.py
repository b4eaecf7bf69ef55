"""Merges what the folders of jobs hold into a store that lacks it: a new one, an old one, or one with damaged rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import NamedTuple

from asr_lightning.job_folder.history import Step
from asr_lightning.server.engine.rebuild import Found
from asr_lightning.server.engine.records import Job, now
from asr_lightning.server.engine.rows import COLUMNS, row_of
from asr_lightning.server.engine.store import Store
from asr_lightning.server.engine.submission import Submission

EVENT_GAP = 10**9
"""Numbers of events go on at the next multiple of this: more events than a job can have had since the last one."""


class Entry(NamedTuple):
    """What a store has of a job.

    Attributes:
        job: The job; None if its row is damaged.
        last: Number of its last event.
    """

    job: Job | None
    last: int


def entries(store: Store) -> dict[str, Entry]:
    """What ``store`` has of each job, by its id."""
    readable = {job.id: job for job in store.jobs()}
    with store.reading() as connection:
        numbers = dict(map(tuple, connection.execute("SELECT job, max(seq) FROM event GROUP BY job")))
        ids = [job_id for (job_id,) in connection.execute("SELECT id FROM job ORDER BY number")]
    return {job_id: Entry(readable.get(job_id), numbers.get(job_id, 0)) for job_id in ids}


def free_devices(store: Store, job_ids: Collection[str]) -> None:
    """Forget which devices these jobs hold, since another one may hold them in truth."""
    with store.writing() as connection:
        connection.executemany("UPDATE job SET device = NULL WHERE id = ?", [[job_id] for job_id in job_ids])


def put(store: Store, found: Found) -> Job:
    """Record a job as its folder shows it, in place of what the store has of it; returns the job."""
    job, past = found.job, found.past
    with store.writing() as connection:
        try:
            _put_row(connection, job, found.number)
        except sqlite3.IntegrityError:  # another job has the device; the supervisor finds that this one is not alive
            job = replace(job, device=None)
            _put_row(connection, job, found.number)
        put_events(connection, job.id, past.steps)
        put_key(connection, found.submission)
        (last,) = connection.execute("SELECT coalesce(max(seq), 0) FROM event WHERE job = ?", [job.id]).fetchone()
        data = {"state": job.state, "attempt": job.attempt, "rebuilt": True}
        number = (last // EVENT_GAP + 1) * EVENT_GAP
        connection.execute("INSERT INTO event VALUES (?, ?, ?, 'state', ?)", [job.id, number, now(), json.dumps(data)])
    return job


def put_events(connection: sqlite3.Connection, job_id: str, steps: Iterable[Step]) -> None:
    """Record steps of a job's history as its events, in place of damaged ones."""
    values = [[job_id, step.seq, step.time, step.kind, json.dumps(step.data)] for step in steps]
    connection.executemany("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?, ?)", values)


def put_key(connection: sqlite3.Connection, submission: Submission) -> None:
    """Record the Idempotency-Key of a job, unless it is recorded."""
    if submission.key is not None:
        values = [submission.key, submission.body_hash, submission.id]
        connection.execute("INSERT OR IGNORE INTO key VALUES (?, ?, ?)", values)


def _put_row(connection: sqlite3.Connection, job: Job, number: int | None) -> None:
    """Insert the row of a job, at its old place in the list if that is free; or replace the one that is there."""
    taken = connection.execute("SELECT 1 FROM job WHERE number = ?", [number]).fetchone()
    marks, setters = ", ".join("?" * len(COLUMNS)), ", ".join(f"{name} = excluded.{name}" for name in COLUMNS)
    connection.execute(
        f"INSERT INTO job (number, {', '.join(COLUMNS)}) VALUES (?, {marks}) ON CONFLICT (id) DO UPDATE SET {setters}",
        [None if taken else number, *row_of(job).values()],
    )
