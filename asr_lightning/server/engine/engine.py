"""The interface of the job engine to the HTTP layer: submit, look up, cancel, resume and delete jobs."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from functools import partial
from pathlib import Path

from asr_lightning.durable import faults
from asr_lightning.durable.ids import new_id
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.digests import digest_of
from asr_lightning.job_folder.intake_report import IntakeReport
from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine import cancellation, deletion, inspection, names, states, submission
from asr_lightning.server.engine.damage import JobFiles
from asr_lightning.server.engine.deletion import Receipt
from asr_lightning.server.engine.errors import BusyError, HomeError, NoSuchJobError, WrongStateError
from asr_lightning.server.engine.health import Health
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.quota import UNLIMITED, Quota
from asr_lightning.server.engine.records import PREDECESSOR, V1, Event, Job, Source, new_job
from asr_lightning.server.engine.recovery import Recovery
from asr_lightning.server.engine.settings import EngineSettings
from asr_lightning.server.engine.submission import Submission
from asr_lightning.server.engine.supervisor import Supervisor
from asr_lightning.server.engine.usage import Usage

logger = logging.getLogger(__name__)

STALLED_S = 60.0  # hashing a large model may take the supervisor some seconds


class Engine:
    """The jobs under one home. Every answer comes from the store. Several threads may use it.

    Args:
        settings: The home, the devices and the limits.

    Attributes:
        notes: What the operator should know of the start: jobs that were rebuilt, files that could not be used.

    Raises:
        HomeError: The home cannot be used, or another server uses it.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.home = Home(settings.home)
        # A process that a killed server had just forked holds a copy of the lock until it executes its program.
        lock = self.home.lock(names.LOCK, patience_s=1.0)
        if lock is None:
            raise HomeError(f"another server uses {self.home.path}: stop it, or name another --home")
        self._lock = lock
        self.health = Health(self.home, settings)
        self.health.reserve.release()  # a full disk must not keep the store from being opened
        recovery = Recovery(self.home)
        try:
            self.store = recovery.run()
        except BaseException:
            os.close(lock)
            raise
        self.notes = tuple(recovery.notes)
        self.files = JobFiles(self.home)
        self.usage = Usage(self.home, self.store)
        self._supervisor = Supervisor(settings, self.home, self.store, self.health)

    def start(self) -> None:
        """Start to process jobs. Those whose workers outlived the last server continue."""
        self._supervisor.start()

    def stop(self) -> None:
        """Stop processing jobs, and release the home. Workers continue, and the next server finds them again."""
        self._supervisor.ending.set()
        self._supervisor.wake.set()
        if self._supervisor.ident is not None:
            self._supervisor.join()
        self.store.close()
        os.close(self._lock)

    def is_supervised(self) -> bool:
        """Whether the supervisor is processing jobs."""
        return self._supervisor.is_alive() and time.monotonic() - self._supervisor.last_step < STALLED_S

    def require_space(self) -> None:
        """Require enough free space for another job.

        Raises:
            DiskFullError: Too little space is left.
        """
        self.home.require_space(self.settings.min_free_bytes)

    def new_upload(self) -> Path:
        """A new, empty, private file for the body of a request. The next start removes it if no job took it.

        Raises:
            DiskFullError: Too little space is left.
        """
        self.require_space()
        path = self.home.uploads / new_id()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        return path

    def submit(
        self,
        spec: JobSpec,
        archive: Path,
        *,
        key: str | None = None,
        source: Source = V1,
        owner: str | None = None,
        quota: Quota = UNLIMITED,
    ) -> tuple[Job, bool]:
        """Record a job. When this returns, the job is on the disk; when it raises, nothing of it is.

        Args:
            spec: What to train.
            archive: A file of ``new_upload``. It is moved when this returns, and stays when this raises.
            key: The client's Idempotency-Key: a second request with the same key, specification and archive gets the
                same job.
            source: The API of the request. ``PREDECESSOR`` allows one active job on the whole server.
            owner: Name that the job will belong to; None if the client has none.
            quota: What that name may have.

        Returns:
            The job, and whether it is new.

        Raises:
            BusyError: Another job is active, or the queue is full.
            QuotaError: The owner has too many jobs, or they hold too many bytes.
            KeyConflictError: ``key`` belongs to another request.
            OSError: The disk is full, or cannot be written.
        """
        with self.usage.claiming(quota):
            job, is_new = self._submit(spec, archive, submission.scoped(key, owner), source, owner, quota)
        archive.unlink(missing_ok=True)
        return job, is_new

    def _submit(
        self, spec: JobSpec, archive: Path, key: str | None, source: str, owner: str | None, quota: Quota
    ) -> tuple[Job, bool]:
        digest = digest_of(archive) or ""
        body_hash = hashlib.sha256(f"{spec}{digest}".encode()).hexdigest()
        if key is not None and (earlier := self.store.keyed(key, body_hash)) is not None:
            return earlier, False
        self.require_space()
        self.usage.require_places(owner, quota)
        self.usage.require_bytes(owner, quota, archive.stat().st_size)
        job = new_job(new_id(), spec, source, owner)
        folder = submission.fill(self.home, Submission.from_job(job, key, body_hash), archive, digest)
        try:
            faults.point("submit.moved")
            self.store.add(job, key, body_hash, 1 if source == PREDECESSOR else self.settings.queue_cap)
            faults.point("submit.recorded")
        except Exception as error:
            if not self._is_recorded(job.id):
                submission.undo(self.home, folder, archive)
                if key is not None and isinstance(error, sqlite3.IntegrityError):  # the same key, at the same time
                    return self.store.keyed(key, body_hash) or job, False
                if isinstance(error, OverflowError):
                    raise self._busy() from error
                raise
        self._supervisor.wake.set()
        return self.job(job.id), True

    def _is_recorded(self, job_id: str) -> bool:
        """Whether a commit took effect although it raised."""
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
        """The job ``job_id`` with its current progress.

        Raises:
            NoSuchJobError: There is no such job.
        """
        return self.files.complete(self.store.job(job_id))

    def jobs(
        self, state: str | None = None, limit: int = 50, after: str | None = None, owner: str | None = None
    ) -> list[Job]:
        """The jobs with their current progress, newest first.

        Args:
            state: Return only jobs in this state.
            limit: Largest number of jobs to return.
            after: Id of a job: return only older ones.
            owner: Return only the jobs of this name.
        """
        wanted = None if state is None else frozenset({state})
        return [self.files.complete(job) for job in self.store.jobs(wanted, limit, after, owner)]

    def active(self, owner: str | None = None) -> Job | None:
        """The oldest job that is running or waiting; with ``owner``, the oldest of that name."""
        jobs = self.store.jobs(states.ACTIVE, owner=owner)
        return self.files.complete(jobs[-1]) if jobs else None

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> list[Event]:
        """The events of a job with a number above ``after``, oldest first.

        Raises:
            NoSuchJobError: There is no such job.
        """
        self.store.job(job_id)
        return self.store.events(job_id, after, limit)

    def cancel(self, job_id: str) -> Job:
        """Cancel a job; one that has ended stays as it is. Its state is "cancelled" once no process of it is left.

        This works on a full disk too: the job is ended, and its state recorded when there is space.

        Raises:
            NoSuchJobError: There is no such job.
        """
        cancel, cancel_unrecorded = (
            partial(attempt, self.store, self._supervisor, job_id)
            for attempt in (cancellation.cancel, cancellation.cancel_unrecorded)
        )
        return self.files.complete(self.health.insist(cancel, cancel_unrecorded))

    def resume(self, job_id: str, quota: Quota = UNLIMITED) -> Job:
        """Start a new attempt of an interrupted, failed or cancelled job, from its last good checkpoint.

        Args:
            job_id: Id of the job.
            quota: What its owner may have.

        Raises:
            NoSuchJobError: There is no such job.
            WrongStateError: The job is in another state, or its data are deleted.
            QuotaError: Too many jobs of its owner wait or run.
        """
        with self.usage.claiming(quota):
            return self._resume(job_id, quota)

    def _resume(self, job_id: str, quota: Quota) -> Job:
        job, folder = self.store.job(job_id), self.home.job(job_id)
        intake = IntakeReport.read(folder)
        has_data = intake is not None and intake.error is None
        if job.state not in states.RESUMABLE or not (has_data or (folder / layout.ARCHIVE).is_file()):
            raise WrongStateError(job, "resumed")
        self.usage.require_place_in_queue(job.owner, quota)
        self.require_space()
        (folder / layout.CANCEL_FLAG).unlink(missing_ok=True)
        self.home.discard(folder / layout.ARTIFACTS)
        faults.point("resume.unflagged")
        state = states.QUEUED if has_data else states.CREATED
        changed = self.store.change(job, state, error=None, ended_at=None, auto_resumes=0)
        if changed is None:
            raise WrongStateError(self.store.job(job_id), "resumed")
        self._supervisor.wake.set()
        return changed

    def purge(self, job_id: str) -> Receipt:
        """Delete a job that has ended, with every byte of its data and model. This works on a full disk too.

        Raises:
            NoSuchJobError: There is no such job.
            WrongStateError: The job is active: cancel it first.
        """

        def purge(files_first: bool) -> Receipt:
            return deletion.purge(self.home, self.store, self.store.job(job_id), files_first)

        return self.health.insist(lambda: purge(False), lambda: purge(True))

    def folder(self, job_id: str) -> Path:
        """The folder of a job.

        Raises:
            NoSuchJobError: There is no such job.
        """
        return self.home.job(self.store.job(job_id).id)

    def inspect(self, archive: Path) -> IntakeReport:
        """Inspect a data set without training. ``archive`` is deleted, and so is everything made of it.

        Raises:
            OSError: The disk is full.
            TimeoutError: The inspection took longer than ten minutes.
            RuntimeError: The intake ended without a report.
        """
        return inspection.inspect(self.home, self.settings.intake, archive)
