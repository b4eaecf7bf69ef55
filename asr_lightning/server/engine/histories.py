"""Keeps the history of each job in its folder as new as the store."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from asr_lightning.durable import faults
from asr_lightning.job_folder import history
from asr_lightning.job_folder.history import History, Step
from asr_lightning.server.engine import states
from asr_lightning.server.engine.errors import NoSuchJobError
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Event, Job
from asr_lightning.server.engine.rows import record_of
from asr_lightning.server.engine.store import Store

logger = logging.getLogger(__name__)


class Histories:
    """Writes to the history of a job what its store has and its history lacks. Several threads may use it.

    Args:
        home: The server's home.
        store: The store of the jobs.
    """

    def __init__(self, home: Home, store: Store) -> None:
        self.home, self.store = home, store
        self._lock = threading.Lock()
        self._written: dict[str, tuple[int, dict[str, object]]] = {}  # last number and record of active jobs

    def update(self, job_id: str) -> None:
        """Add what is new to the history of a job.

        A history that cannot be written stops no job: the next start writes it anew from the store.
        """
        folder = self.home.job(job_id)
        try:
            with self._lock:
                if job_id not in self._written:
                    past = History.read(folder)
                    self._written[job_id] = (past.last, past.record)
                last, record = self._written[job_id]
                current, job = self._current(job_id)
                steps = steps_of(self.store.events(job_id, last, -1), record, current)
                if steps and folder.is_dir():
                    history.append(folder, steps)
                    self._written[job_id] = (steps[-1].seq, current)
                if job.state not in states.ACTIVE:
                    del self._written[job_id]
            faults.point("history.written")
        except (OSError, ValueError, NoSuchJobError, faults.InjectedError) as error:
            logger.warning("the history of job %s cannot be written: %s", job_id, error)

    def repair(self, job_id: str, past: History, folder: Path) -> None:
        """Bring the history of a job up to date at a start, and write it anew if any of it is damaged.

        Raises:
            OSError: It cannot be written.
        """
        current, _ = self._current(job_id)
        if past.whole:
            if steps := steps_of(self.store.events(job_id, past.last, -1), past.record, current):
                history.append(folder, steps)
        elif steps := steps_of(self.store.events(job_id, 0, -1), {}, current):
            history.rewrite(folder, steps)

    def _current(self, job_id: str) -> tuple[dict[str, object], Job]:
        """The record of a job for its history: its columns, its place in the list, and its Idempotency-Key."""
        job = self.store.job(job_id)
        with self.store.reading() as connection:
            (number,) = connection.execute("SELECT number FROM job WHERE id = ?", [job_id]).fetchone()
            row = connection.execute("SELECT key, body_hash FROM key WHERE job = ?", [job_id]).fetchone()
        key, body_hash = row or (None, "")
        return {**record_of(job), "number": number, "key": key, "body_hash": body_hash}, job


def steps_of(events: Sequence[Event], before: Mapping[str, object], after: Mapping[str, object]) -> list[Step]:
    """The events as steps of a history. The last one has everything that ``after`` changes in the record ``before``."""
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    steps = [Step(event.seq, event.time, event.kind, event.data, {}) for event in events]
    if steps:
        last = events[-1]
        steps[-1] = Step(last.seq, last.time, last.kind, last.data, changed)
    return steps
