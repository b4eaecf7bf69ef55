"""What the HTTP layer talks to: submit, look, cancel, resume, delete. Every answer comes from the store."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from asr_lightning.durable import faults
from asr_lightning.durable.files import read_json
from asr_lightning.durable.ids import new_id
from asr_lightning.job_folder.proof import digest_of, read_intake
from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine import recovery, states, submission
from asr_lightning.server.engine.checking import check
from asr_lightning.server.engine.deletion import purge
from asr_lightning.server.engine.errors import BusyError, HomeError, NoSuchJobError, WrongStateError
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Event, Job, new_job, now
from asr_lightning.server.engine.settings import EngineSettings
from asr_lightning.server.engine.supervisor import Supervisor

logger = logging.getLogger(__name__)

STALLED_S = 60.0  # hashing a large model may take the supervisor some seconds


class Engine:
    """Jobs under one home. Safe to use from several threads.

    Args:
        settings: Where, on which devices, and the limits.

    Raises:
        HomeError: The home cannot be used, or another server has it.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.home = Home(settings.home)
        # A process that a killed server was about to start has a copy of the lock until it is executed.
        lock = self.home.lock("server.lock", patience_s=1.0)
        if lock is None:
            raise HomeError(f"another server uses {self.home.path}: stop it, or name another --home")
        self._lock = lock
        try:
            self.store = recovery.open_store(self.home)
            recovery.clean(self.home, self.store)
        except BaseException:
            os.close(lock)
            raise
        self._supervisor = Supervisor(settings, self.home, self.store)

    def start(self) -> None:
        """Start to move jobs on; those whose workers lived on are taken up again."""
        self._supervisor.start()

    def stop(self) -> None:
        """Stop moving jobs on, and free the home. Workers live on; the next start takes them up again."""
        self._supervisor.ending.set()
        self._supervisor.wake.set()
        if self._supervisor.ident is not None:
            self._supervisor.join()
        self.store.close()
        os.close(self._lock)

    def is_supervised(self) -> bool:
        """Whether jobs are being moved on."""
        return self._supervisor.is_alive() and time.monotonic() - self._supervisor.last_step < STALLED_S

    def check_space(self) -> None:
        """Raise ``DiskFullError`` where nothing more is accepted."""
        self.home.check_space(self.settings.min_free_bytes)

    def new_upload(self) -> Path:
        """A fresh, empty file for the body of a request; private, and removed at the next start if nobody takes it.

        Raises:
            DiskFullError: Too little space is left.
        """
        self.check_space()
        path = self.home.uploads / new_id()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        return path

    def submit(
        self,
        spec: JobSpec,
        archive: Path,
        *,
        key: str | None = None,
        source: Literal["seed", "v1"] = "v1",
    ) -> tuple[Job, bool]:
        """Record a job. When this returns, it is on the disk; when it raises, nothing of it is.

        Args:
            spec: What to train.
            archive: A file of ``new_upload``. It is taken when this returns, and stays when it raises.
            key: Of the client; the same one again, with the same spec and archive, gives the same job.
            source: "seed" admits one active job on the whole server.

        Returns:
            The job, and whether it is new.

        Raises:
            BusyError: Another is active (seed), or too many are.
            KeyConflictError: ``key`` belongs to another request.
            OSError: The disk is full, or cannot be written.
        """
        found = self._submit(spec, archive, key, source)
        archive.unlink(missing_ok=True)
        return found

    def _submit(self, spec: JobSpec, archive: Path, key: str | None, source: str) -> tuple[Job, bool]:
        digest = digest_of(archive) or ""
        body_hash = hashlib.sha256(f"{spec}{digest}".encode()).hexdigest()
        if key is not None and (known := self.store.keyed(key, body_hash)) is not None:
            return known, False
        self.check_space()
        job = new_job(new_id(), spec, source)
        folder = submission.fill(self.home, job, archive, key, body_hash, digest)
        try:
            faults.point("submit.moved")
            self.store.add(job, key, body_hash, 1 if source == "seed" else self.settings.queue_cap)
            faults.point("submit.recorded")
        except Exception as error:
            if not self._is_recorded(job.id):
                submission.give_back(self.home, folder, archive)
                if key is not None and isinstance(error, sqlite3.IntegrityError):  # the same key, at the same time
                    return self.store.keyed(key, body_hash) or job, False
                if isinstance(error, OverflowError):
                    raise self._busy() from error
                raise
        self._supervisor.wake.set()
        return self.job(job.id), True

    def _is_recorded(self, job_id: str) -> bool:
        """Whether the commit was done although it raised."""
        try:
            self.store.job(job_id)
        except NoSuchJobError:
            return False
        return True

    def _busy(self) -> BusyError:
        current = self.active()
        running = f"job {current.id} is {current.state}" if current else "the queue is full"
        return BusyError(f"{running}: wait for it, or cancel it", current.id if current else None)

    def job(self, job_id: str) -> Job:
        """The job called ``job_id``, with what its trainer last said.

        Raises:
            NoSuchJobError: There is none.
        """
        return self._with_progress(self.store.job(job_id))

    def jobs(self, state: str | None = None, limit: int = 50, after: str | None = None) -> list[Job]:
        """Newest first.

        Args:
            state: Only those in it.
            limit: At most so many.
            after: Only those older than this one.
        """
        wanted = None if state is None else frozenset({state})
        return [self._with_progress(job) for job in self.store.jobs(wanted, limit, after)]

    def _with_progress(self, job: Job) -> Job:
        if not job.attempt or job.state == states.PURGED:
            return job
        found = read_json(self.home.job(job.id) / "progress.json")
        current = found is not None and found.get("attempt") == job.attempt
        return replace(job, progress=found) if current else job

    def active(self) -> Job | None:
        """The oldest job that is under way, or waiting to be."""
        found = self.store.jobs(states.ACTIVE)
        return self._with_progress(found[-1]) if found else None

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> list[Event]:
        """What happened to a job later than event ``after``, oldest first.

        Raises:
            NoSuchJobError: There is none.
        """
        self.store.job(job_id)
        return self.store.events(job_id, after, limit)

    def cancel(self, job_id: str) -> Job:
        """End a job; one that has ended stays as it is. It is cancelled when nothing of it runs any more.

        Raises:
            NoSuchJobError: There is none.
        """
        while True:
            job = self.store.job(job_id)
            if job.state not in states.ACTIVE | {states.INTERRUPTED} or job.state == states.CANCELLING:
                return self._with_progress(job)
            if job.state == states.INTERRUPTED:
                changed = self.store.change(job, states.CANCELLED, ended_at=now())
            else:
                changed = self.store.change(job, states.CANCELLING)
            faults.point("cancel.recorded")
            if changed:
                self._supervisor.wake.set()
                return self._with_progress(changed)

    def resume(self, job_id: str) -> Job:
        """Start a new attempt of a job that was interrupted, failed or was cancelled, from its last good checkpoint.

        Raises:
            NoSuchJobError: There is none.
            WrongStateError: It is in another state, or its data are gone.
        """
        job, folder = self.store.job(job_id), self.home.job(job_id)
        intake = read_intake(folder)
        has_data = intake is not None and intake[1] is None
        if job.state not in states.RESUMABLE or not (has_data or (folder / "input" / "archive.tar.gz").is_file()):
            raise WrongStateError(job, "resumed")
        self.check_space()
        (folder / "cancel").unlink(missing_ok=True)
        self.home.discard(folder / "artifacts")
        faults.point("resume.unflagged")
        state = states.QUEUED if has_data else states.CREATED
        changed = self.store.change(job, state, error=None, ended_at=None, auto_resumes=0)
        if changed is None:
            raise WrongStateError(self.store.job(job_id), "resumed")
        self._supervisor.wake.set()
        return changed

    def purge(self, job_id: str) -> dict[str, Any]:
        """Delete a job that has ended, with every byte of its data and model.

        Returns:
            ``id``, the ``deleted`` files relative to the home, and their ``bytes``.

        Raises:
            NoSuchJobError: There is none.
            WrongStateError: It is under way: cancel it first.
        """
        return purge(self.home, self.store, self.store.job(job_id))

    def folder(self, job_id: str) -> Path:
        """Where a job keeps its files.

        Raises:
            NoSuchJobError: There is none.
        """
        return self.home.job(self.store.job(job_id).id)

    def check(self, archive: Path) -> dict[str, Any]:
        """Check a data set without training: what ``intake.json`` would hold. Takes ``archive``, and keeps nothing.

        Raises:
            OSError: The disk is full.
            TimeoutError: It took longer than ten minutes.
            RuntimeError: The check itself broke off.
        """
        return check(self.home, self.settings.intake, archive)
