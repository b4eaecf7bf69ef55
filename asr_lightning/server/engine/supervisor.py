"""Process every active job, a step at a time. This is the only place that starts, watches and ends workers.

A restart loses nothing: the store holds the states, a lock shows that a worker is alive, and files prove how it ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sqlite3
import threading
import time

from asr_lightning.durable import faults
from asr_lightning.job_folder import layout, processes
from asr_lightning.job_folder.assignment import Assignment
from asr_lightning.job_folder.ending import Ending
from asr_lightning.job_folder.failure import AGAIN, Failure
from asr_lightning.job_folder.intake_report import IntakeReport
from asr_lightning.job_folder.progress import PHASES, Progress
from asr_lightning.server.engine import states
from asr_lightning.server.engine.deletion import Retention
from asr_lightning.server.engine.errors import WrongStateError
from asr_lightning.server.engine.health import Health, launch_failure
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Job, now
from asr_lightning.server.engine.settings import EngineSettings
from asr_lightning.server.engine.store import Store

logger = logging.getLogger(__name__)

KILL_AFTER_S = 2.5  # between SIGTERM and SIGKILL; a cancelled job is to end within 5 s after its grace
INTAKE_TRIES = 3
RETENTION_PAUSE_S = 60.0


class Supervisor(threading.Thread):
    """The thread that processes the jobs.

    Args:
        settings: Settings of the engine.
        home: Home of the server, whose lock this process holds.
        store: Store of the jobs.
        health: Health of the server.

    Attributes:
        wake: Set to make the next step start at once.
        ending: Set to stop the thread.
        last_step: When the last step ended, on the monotonic clock.
        unrecorded: Ids of jobs to cancel although the disk is too full to record that.
    """

    def __init__(self, settings: EngineSettings, home: Home, store: Store, health: Health) -> None:
        super().__init__(name="supervisor", daemon=True)
        self.settings, self.home, self.store, self.health = settings, home, store, health
        self.unrecorded: set[str] = set()
        self.wake, self.ending = threading.Event(), threading.Event()
        self.last_step = time.monotonic()
        self._since: dict[tuple[str, str, int], float] = {}  # when this server first saw a job in a state
        self._intake_tries: dict[str, int] = {}
        self._reported: dict[str, Progress] = {}  # the progress in the last event of a job
        self._next_purge, self._retention = 0.0, Retention(home, store, settings.retention_s)

    def run(self) -> None:
        """Step until ``ending`` is set."""
        while not self.ending.is_set():
            self.step()
            self.wake.wait(self.settings.poll_s)
            self.wake.clear()

    def step(self) -> None:
        """Process every active job once. An error with one job is logged, and the next step tries again."""
        try:
            active = self.store.jobs(states.ACTIVE)[::-1]
            self._forget({job.id for job in active})
        except (sqlite3.Error, OSError):
            logger.exception("the job store cannot be read")
            return
        for job in active:
            try:
                self._process(job)
                self.health.worked(job)
            except Exception as error:  # an error with one job must not stop the others
                self.health.failed(job, error)
        self._purge_old()
        self.last_step = time.monotonic()

    def _purge_old(self) -> None:
        if time.monotonic() < self._next_purge:
            return
        self._next_purge = time.monotonic() + RETENTION_PAUSE_S
        try:
            self._retention.sweep()
        except (sqlite3.Error, OSError, WrongStateError):
            logger.exception("old jobs could not be deleted: trying again")

    def _forget(self, active: set[str]) -> None:
        """Forget what is remembered of jobs that are no longer active."""
        self.health.tend(active)
        self.unrecorded &= active
        self._since = {state: since for state, since in self._since.items() if state[0] in active}
        self._reported = {job_id: progress for job_id, progress in self._reported.items() if job_id in active}
        self._intake_tries = {job_id: tries for job_id, tries in self._intake_tries.items() if job_id in active}

    def _process(self, job: Job) -> None:
        if job.state == states.CANCELLING or job.id in self.unrecorded:
            self._cancel(job)
        elif job.state == states.CREATED:
            self._start_intake(job)
        elif job.state == states.VALIDATING:
            self._watch_intake(job)
        elif job.state == states.QUEUED:
            self._start_trainer(job)
        else:
            self._watch_trainer(job)

    def _age(self, job: Job, what: str = "") -> float:
        """Seconds since this server first saw the job in its state, or in ``what``, on the monotonic clock."""
        return time.monotonic() - self._since.setdefault((job.id, what or job.state, job.attempt), time.monotonic())

    def _is_alive(self, job: Job) -> bool:
        return processes.is_alive(job.id, self.home.job(job.id))

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
            self._fail(job, Failure("internal", message, "data"))
            return
        try:
            (self.home.job(job.id) / layout.INTAKE_REPORT).unlink(missing_ok=True)
            processes.launch(job.id, self.home.job(job.id), self.settings.intake, "intake", [])
        except (OSError, faults.InjectedError) as error:
            self._fail(job, launch_failure(error))
            return
        faults.point("intake.started")

    def _watch_intake(self, job: Job) -> None:
        processes.cap_log(self.home.job(job.id), "intake", self.settings.max_log_bytes)
        if self._is_alive(job):
            if self._age(job) > self.settings.inspection_s:
                processes.end_all(job.id)
                message = f"reading the data took more than {self.settings.inspection_s:.0f} s: send fewer clips"
                self._fail(job, Failure("timeout", message, "data"))
            return
        if not processes.end_all(job.id):
            return
        report = IntakeReport.read(self.home.job(job.id))
        if report is None:
            self._launch_intake(job)
            return
        faults.point("intake.ended")
        if report.error is not None:
            self.store.change(job, states.FAILED, error=report.error, dataset=report.dataset, ended_at=now())
        elif self.store.change(job, states.QUEUED, dataset=report.dataset):
            faults.point("intake.queued")
            self._drop_archive(job)

    # trainer

    def _start_trainer(self, job: Job) -> None:
        self._drop_archive(job)
        for device in self.settings.devices:
            lock = self.home.lock(f"locks/{device.replace(':', '-')}.lock")
            if lock is None:
                continue
            try:
                changed = self.store.change(
                    job, states.PREPARING, attempt=job.attempt + 1, device=device, started_at=now(), resumed_from=None
                )
                if changed is not None:
                    self._launch_trainer(changed, lock)
                return
            except sqlite3.IntegrityError:
                continue  # in the store, a job whose ending is not yet recorded still holds this device
            finally:
                os.close(lock)

    def _drop_archive(self, job: Job) -> None:
        if not self.settings.keep_archives:
            (self.home.job(job.id) / layout.ARCHIVE).unlink(missing_ok=True)

    def _launch_trainer(self, job: Job, lock: int) -> None:
        """Write the trainer's assignment, and start it."""
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
            for name in (layout.EXIT_RECORD, layout.PROGRESS):
                (folder / name).unlink(missing_ok=True)
            assignment.write(folder)
            faults.point("trainer.assigned")
            processes.launch(job.id, folder, self.settings.trainer, "trainer", [lock])
        except (OSError, faults.InjectedError) as error:
            self._fail(job, launch_failure(error))
            return
        faults.point("trainer.started")

    def _watch_trainer(self, job: Job) -> None:
        alive = self._is_alive(job)
        processes.cap_log(self.home.job(job.id), "trainer", self.settings.max_log_bytes)
        self._follow(job)
        if not alive:
            self._conclude(self.store.job(job.id))
        elif self._age(job, "attempt") > self.settings.max_wall_s and processes.end_all(job.id):
            message = f"the training took more than {self.settings.max_wall_s / 3600:g} h: ask for fewer epochs"
            self._fail(self.store.job(job.id), Failure("timeout", message, "epochs"))

    def _follow(self, job: Job) -> None:
        """Take over the phase from the trainer's progress, and record an event if the progress is new."""
        try:
            progress = Progress.read(self.home.job(job.id))
        except OSError:  # the job's answer names the file
            return
        if progress is None or progress.attempt != job.attempt or progress.phase not in states.TRAINING:
            return
        if PHASES.index(progress.phase) > PHASES.index(job.state):
            job = self.store.change(job, progress.phase, resumed_from=progress.resumed_from) or job
            faults.point(f"trainer.{progress.phase}")
        self.health.saw(job, progress)
        last = self._reported.get(job.id)
        if last is None or progress.is_news_after(last):
            self._reported[job.id] = progress
            self.store.record(job, "progress", progress.as_event())

    def _conclude(self, job: Job) -> None:
        """Find out how a trainer ended, once no process of it is left."""
        if job.state not in states.TRAINING or not processes.end_all(job.id):
            return
        faults.point("trainer.ended")
        ending = Ending.read(self.home.job(job.id), job.attempt)
        if ending is None or (ending.error and ending.error.code in AGAIN):
            self._interrupt(job)
        elif ending.error is not None:
            self.store.change(job, states.FAILED, ended_at=now(), device=None, error=ending.error)
        else:
            self.store.change(
                job, states.SUCCEEDED, ended_at=now(), device=None, error=None, metrics=ending.metrics,
                artifacts=ending.artifacts,
            )  # fmt: skip
        faults.point("trainer.concluded")

    def _interrupt(self, job: Job) -> None:
        """Resume a job whose trainer left no proof of an ending, unless that was tried often enough."""
        if job.auto_resumes < self.settings.auto_resumes:
            count = job.auto_resumes + 1
            self.store.change(job, states.QUEUED, through=states.INTERRUPTED, auto_resumes=count, device=None)
            return
        message = "the training process ended without a result (killed, or out of memory): resume it, or ask for less"
        self.store.change(job, states.INTERRUPTED, error=Failure("interrupted", message), ended_at=now(), device=None)

    # both

    def _cancel(self, job: Job) -> None:
        """Set the flag, then send SIGTERM, then SIGKILL; the job is cancelled once no process of it is left."""
        folder, age = self.home.job(job.id), self._age(job)
        if self._is_alive(job):
            # On a full disk the flag cannot be set: the signals end the job all the same.
            with contextlib.suppress(OSError):
                (folder / layout.CANCEL_FLAG).touch()
            if age > self.settings.grace_s + KILL_AFTER_S:
                processes.signal_all(job.id, signal.SIGKILL)
            elif age > self.settings.grace_s:
                processes.signal_all(job.id, signal.SIGTERM)
            return
        if not processes.end_all(job.id):
            return
        with contextlib.suppress(OSError):
            (folder / layout.CANCEL_FLAG).touch()  # a rebuilt store needs it
        faults.point("cancel.ended")
        through = None if job.state == states.CANCELLING else states.CANCELLING
        self.store.change(job, states.CANCELLED, through, device=None, ended_at=now())

    def _fail(self, job: Job, error: Failure) -> None:
        """Fail a job on the server's own decision, also in its folder, from which a lost store is rebuilt."""
        with contextlib.suppress(OSError):
            Ending.failed(job.attempt, error).write(self.home.job(job.id))
        self.store.change(job, states.FAILED, error=error, device=None, ended_at=now())
