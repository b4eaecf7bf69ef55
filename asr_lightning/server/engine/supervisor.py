"""Moves every active job on, a step at a time: the only place that starts, watches and ends workers.

It keeps nothing that a restart would miss: state is the store's, life is a lock's, endings are files'.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sqlite3
import threading
import time
from typing import Any

from asr_lightning.durable import faults
from asr_lightning.durable.files import read_json, write_json
from asr_lightning.durable.locks import is_held
from asr_lightning.job_folder import processes
from asr_lightning.job_folder.assignment import Assignment
from asr_lightning.job_folder.proof import read_ending, read_intake
from asr_lightning.server.engine import states
from asr_lightning.server.engine.deletion import purge_old
from asr_lightning.server.engine.errors import WrongStateError
from asr_lightning.server.engine.home import Home, is_full
from asr_lightning.server.engine.records import Job, now
from asr_lightning.server.engine.settings import EngineSettings
from asr_lightning.server.engine.store import Store

logger = logging.getLogger(__name__)

KILL_AFTER_S = 2.5  # between SIGTERM and SIGKILL; promise P8 leaves 5 s
INTAKE_TRIES = 3
RETENTION_PAUSE_S = 60.0
TOLD = ("phase", "message", "epoch", "epochs", "fraction", "checks", "base_wer")


class Supervisor(threading.Thread):
    """The thread that does it.

    Args:
        settings: Of the engine.
        home: Whose lock this process holds.
        store: Of the jobs.
    """

    def __init__(self, settings: EngineSettings, home: Home, store: Store) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.settings, self.home, self.store = settings, home, store
        self.wake, self.ending = threading.Event(), threading.Event()
        self.last_step = time.monotonic()
        self._since: dict[tuple[str, str, int], float] = {}  # when this server saw a state first
        self._intake_tries: dict[str, int] = {}
        self._told: dict[str, dict[str, Any]] = {}
        self._next_purge = 0.0

    def run(self) -> None:
        """Step until ``ending`` is set."""
        while not self.ending.is_set():
            self.step()
            self.wake.wait(self.settings.poll_s)
            self.wake.clear()

    def step(self) -> None:
        """Look at every active job once. Whatever goes wrong with one is logged and tried again."""
        try:
            active = self.store.jobs(states.ACTIVE)[::-1]
            self._forget({job.id for job in active})
        except (sqlite3.Error, OSError):
            logger.exception("the job store cannot be read")
            return
        for job in active:
            try:
                self._move(job)
            except Exception:  # one job's trouble must not stop the others
                logger.exception("job %s: trying again", job.id)
        self._purge_old()
        self.last_step = time.monotonic()

    def _purge_old(self) -> None:
        if self.settings.retention_s is None or time.monotonic() < self._next_purge:
            return
        self._next_purge = time.monotonic() + RETENTION_PAUSE_S
        try:
            purge_old(self.home, self.store, self.settings.retention_s)
        except (sqlite3.Error, OSError, WrongStateError):
            logger.exception("old jobs could not be deleted: trying again")

    def _forget(self, active: set[str]) -> None:
        self._since = {seen: since for seen, since in self._since.items() if seen[0] in active}
        self._told = {job_id: told for job_id, told in self._told.items() if job_id in active}
        self._intake_tries = {job_id: tries for job_id, tries in self._intake_tries.items() if job_id in active}

    def _move(self, job: Job) -> None:
        if job.state == states.CREATED:
            self._start_intake(job)
        elif job.state == states.VALIDATING:
            self._watch_intake(job)
        elif job.state == states.QUEUED:
            self._start_trainer(job)
        elif job.state == states.CANCELLING:
            self._cancel(job)
        else:
            self._watch_trainer(job)

    def _age(self, job: Job) -> float:
        """Seconds since this server saw the job in this state; the wall clock has no say."""
        return time.monotonic() - self._since.setdefault((job.id, job.state, job.attempt), time.monotonic())

    def _is_alive(self, job: Job) -> bool:
        processes.reap()
        return is_held(self.home.job(job.id) / "worker.lock")

    # intake

    def _start_intake(self, job: Job) -> None:
        if self.store.jobs(frozenset({states.VALIDATING})):
            return  # one at a time: decoding takes a core
        changed = self.store.change(job, states.VALIDATING)
        faults.point("intake.recorded")
        if changed:
            self._launch_intake(changed)

    def _launch_intake(self, job: Job) -> None:
        tries = self._intake_tries[job.id] = self._intake_tries.get(job.id, 0) + 1
        if tries > INTAKE_TRIES:
            message = f"the reading of the data ended {INTAKE_TRIES} times without a result"
            self._fail(job, {"code": "internal", "message": message, "param": "data"})
            return
        try:
            (self.home.job(job.id) / "intake.json").unlink(missing_ok=True)
            self._launch(job, self.settings.intake, "intake", [])
        except (OSError, faults.InjectedError) as error:
            self._fail(job, _error_of(error))
            return
        faults.point("intake.started")

    def _watch_intake(self, job: Job) -> None:
        processes.cap_log(self.home.job(job.id), "intake", self.settings.max_log_bytes)
        if self._is_alive(job):
            if self._age(job) > self.settings.inspection_s:
                processes.end_all(job.id)
                message = f"reading the data took more than {self.settings.inspection_s:.0f} s: send fewer clips"
                self._fail(job, {"code": "timeout", "message": message, "param": "data"})
            return
        if not processes.end_all(job.id):
            return
        found = read_intake(self.home.job(job.id))
        if found is None:
            self._launch_intake(job)
            return
        dataset, error = found
        faults.point("intake.ended")
        if error is not None:
            self.store.change(job, states.FAILED, error=error, dataset=dataset, ended_at=now())
        elif self.store.change(job, states.QUEUED, dataset=dataset) and not self.settings.keep_archives:
            faults.point("intake.queued")
            (self.home.job(job.id) / "input" / "archive.tar.gz").unlink(missing_ok=True)

    # trainer

    def _start_trainer(self, job: Job) -> None:
        self._drop_archive(job)
        for device in self.settings.devices:
            lock = self.home.lock(f"locks/{device.replace(':', '-')}.lock")
            if lock is None:
                continue
            try:
                changed = self._take(job, device)
                if changed is not None:
                    self._launch_trainer(changed, lock)
                return
            except sqlite3.IntegrityError:
                continue  # the store still gives this device to a job whose ending is not recorded
            finally:
                os.close(lock)

    def _drop_archive(self, job: Job) -> None:
        if not self.settings.keep_archives:
            (self.home.job(job.id) / "input" / "archive.tar.gz").unlink(missing_ok=True)

    def _take(self, job: Job, device: str) -> Job | None:
        return self.store.change(
            job, states.PREPARING, attempt=job.attempt + 1, device=device, started_at=now(), resumed_from=None
        )

    def _launch_trainer(self, job: Job, lock: int) -> None:
        """Write down what the trainer is to do, and start it."""
        faults.point("trainer.recorded")
        folder = self.home.job(job.id)
        assignment = Assignment(
            job=job.id,
            attempt=job.attempt,
            device=str(job.device),
            source=self.settings.models.get(job.spec.model, job.spec.model),
            spec=job.spec,
            resume=job.attempt > 1,
        )
        try:
            for name in ("exit.json", "progress.json"):
                (folder / name).unlink(missing_ok=True)
            assignment.write(folder)
            faults.point("trainer.assigned")
            self._launch(job, self.settings.trainer, "trainer", [lock])
        except (OSError, faults.InjectedError) as error:
            self._fail(job, _error_of(error))
            return
        faults.point("trainer.started")

    def _watch_trainer(self, job: Job) -> None:
        alive = self._is_alive(job)
        processes.cap_log(self.home.job(job.id), "trainer", self.settings.max_log_bytes)
        self._follow(job)
        if not alive:
            self._conclude(self.store.job(job.id))
        elif self._age_of_attempt(job) > self.settings.max_wall_s and processes.end_all(job.id):
            message = f"the training took more than {self.settings.max_wall_s / 3600:g} h: ask for fewer epochs"
            self._fail(self.store.job(job.id), {"code": "timeout", "message": message, "param": "epochs"})

    def _age_of_attempt(self, job: Job) -> float:
        return time.monotonic() - self._since.setdefault((job.id, "attempt", job.attempt), time.monotonic())

    def _follow(self, job: Job) -> None:
        """Take the phase from the trainer's progress, and tell what is new."""
        found = read_json(self.home.job(job.id) / "progress.json")
        if found is None or found.get("attempt") != job.attempt or found.get("phase") not in states.TRAINING:
            return
        if states.PHASES.index(found["phase"]) > states.PHASES.index(job.state):
            job = self.store.change(job, found["phase"], resumed_from=found.get("resumed_from")) or job
            faults.point(f"trainer.{found['phase']}")
        told = {name: found[name] for name in TOLD if name in found}
        before = self._told.get(job.id, {})
        if any(told.get(name) != before.get(name) for name in ("phase", "message", "checks")):
            self._told[job.id] = told
            self.store.tell(job, "progress", told | {"checks": (told.get("checks") or [])[-1:]})

    def _conclude(self, job: Job) -> None:
        """The trainer is gone: find out how it ended, once nothing of it is left."""
        if job.state not in states.TRAINING or not processes.end_all(job.id):
            return
        faults.point("trainer.ended")
        ending = read_ending(self.home.job(job.id), job.attempt)
        gone: dict[str, Any] = {"device": None}
        if ending is None or (ending.error and ending.error["code"] in ("interrupted", "cancelled")):
            self._interrupt(job, gone)
        elif ending.succeeded:
            gone |= {"metrics": ending.metrics, "artifacts": ending.artifacts, "error": None}
            self.store.change(job, states.SUCCEEDED, ended_at=now(), **gone)
        else:
            self.store.change(job, states.FAILED, ended_at=now(), error=ending.error, **gone)
        faults.point("trainer.concluded")

    def _interrupt(self, job: Job, gone: dict[str, Any]) -> None:
        """No proof of an ending: go on from the last checkpoint, or rest once that was tried often enough."""
        if job.auto_resumes < self.settings.auto_resumes:
            count = job.auto_resumes + 1
            self.store.change(job, states.QUEUED, through=states.INTERRUPTED, auto_resumes=count, **gone)
            return
        message = "the training process ended without a result (killed, or out of memory): resume it, or ask for less"
        error = {"code": "interrupted", "message": message, "param": None}
        self.store.change(job, states.INTERRUPTED, error=error, ended_at=now(), **gone)

    # both

    def _launch(self, job: Job, command: tuple[str, ...], name: str, device_locks: list[int]) -> None:
        folder = self.home.job(job.id)
        processes.launch(job.id, folder, command, name, device_locks)

    def _cancel(self, job: Job) -> None:
        """Flag, then SIGTERM, then SIGKILL; cancelled only when nothing of it is left."""
        folder, age = self.home.job(job.id), self._age(job)
        if self._is_alive(job):
            # A full disk cannot keep a job alive: it is ended without the courtesy.
            with contextlib.suppress(OSError):
                (folder / "cancel").touch()
            if age > self.settings.grace_s + KILL_AFTER_S:
                processes.signal_all(job.id, signal.SIGKILL)
            elif age > self.settings.grace_s:
                processes.signal_all(job.id, signal.SIGTERM)
            return
        if not processes.end_all(job.id):
            return
        with contextlib.suppress(OSError):
            (folder / "cancel").touch()  # what the store is rebuilt from
        faults.point("cancel.ended")
        self.store.change(job, states.CANCELLED, device=None, ended_at=now())

    def _fail(self, job: Job, error: dict[str, Any]) -> None:
        """The server itself ends a job; its folder says so too."""
        with contextlib.suppress(OSError):
            write_json(self.home.job(job.id) / "exit.json", {"attempt": job.attempt, "code": 1, "error": error})
        self.store.change(job, states.FAILED, error=error, device=None, ended_at=now())


def _error_of(error: Exception) -> dict[str, Any]:
    if is_full(error):
        return {"code": "disk_full", "message": "the server's disk is full: delete old jobs", "param": None}
    return {"code": "internal", "message": f"the worker could not be started ({type(error).__name__})", "param": None}
