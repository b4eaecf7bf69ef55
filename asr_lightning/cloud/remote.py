"""The function that runs on a rented machine, the same for every provider. It runs the two commands of a server's job.

The volume has the layout of a job's folder on the server. The function may be killed at any moment and called again on
its last commit: it then does not read the data again, and continues from the last whole checkpoint.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import psutil

from asr_lightning.cloud.provider import Request, RequestDocument
from asr_lightning.durable.files import read_json, write_json
from asr_lightning.job_folder import layout, processes
from asr_lightning.job_folder.assignment import Assignment
from asr_lightning.job_folder.ending import Ending
from asr_lightning.job_folder.failure import AGAIN, Failure
from asr_lightning.job_folder.intake_report import IntakeReport
from asr_lightning.job_folder.progress import PREPARING, Progress

logger = logging.getLogger(__name__)

INTAKE = (sys.executable, "-m", "asr_lightning.server.intake")
TRAINER = (sys.executable, "-m", "asr_lightning", "run-job")
STATE = "remote.json"
POLL_S = 0.1
COMMIT_S = 4.0
COMMIT_SHARE = 0.1
"""Largest share of the time that commits may take, because the trainer is paused meanwhile."""
COMMIT_FAILURES = 5
DEATHS = 3
"""How often a worker may end without a result; a restart of the machine does not count."""
STOPS_WITHIN_S = 2.0
MAX_LOG_BYTES = 8 << 20
PRIVATE = ("input", "dataset", "run", "tmp")
"""Folders that are deleted when the training has ended."""


class StoppedError(Exception):
    """The training must not continue; ``error`` goes into ``exit.json``."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = Failure(code, message, param)


class Options(TypedDict, total=False):
    """Arguments of ``train`` that tests change."""

    trainer: Sequence[str]
    intake: Sequence[str]
    commit_s: float


def train(
    folder: Path,
    request: RequestDocument,
    commit: Callable[[], object],
    *,
    trainer: Sequence[str] = TRAINER,
    intake: Sequence[str] = INTAKE,
    commit_s: float = COMMIT_S,
) -> None:
    """Train on the volume in ``folder``; when this returns, the committed ``exit.json`` says how it ended.

    Args:
        folder: The mounted volume, with ``input/archive.tar.gz``.
        request: The request, as ``Request.as_dict`` returns it.
        commit: Commits the volume: what was written becomes permanent, and visible from outside.
        trainer: Command line of the trainer, to which the folder is added.
        intake: Command line of the intake, to which the folder is added.
        commit_s: Seconds between two commits.

    Raises:
        OSError: The volume can no longer be written or committed.
    """
    _Training(folder.resolve(), Request.from_dict(request), commit, commit_s).run(intake, trainer)


class _Training:
    """One call of ``train``."""

    def __init__(self, folder: Path, request: Request, commit: Callable[[], object], commit_s: float) -> None:
        self.folder, self.request = folder, request
        self._commit_volume, self._commit_s = commit, commit_s
        self._state = {"attempt": 0, "deaths": 0, "seconds": 0.0, "intake": False, **(read_json(folder / STATE) or {})}
        self._before, self._started = float(self._state["seconds"]), time.monotonic()
        self._next, self._failures = time.monotonic() + commit_s, 0

    def run(self, intake: Sequence[str], trainer: Sequence[str]) -> None:
        if self._ending() is not None:
            return
        try:
            self._read_data(intake)
            while self._ending() is None:
                self._attempt(trainer)
        except StoppedError as stopped:
            processes.end_all(self.request.id)
            Ending.failed(self._state["attempt"], stopped.error).write(self.folder)
        finally:  # also if the provider announces that it takes the machine away
            processes.end_all(self.request.id)
            self._commit_last()

    def _ending(self) -> Ending | None:
        """How the training ended; None if it has to continue."""
        ending = Ending.read(self.folder, self._state["attempt"])
        return None if ending is None or (ending.error and ending.error.code in AGAIN) else ending

    def _read_data(self, intake: Sequence[str]) -> None:
        """Create the data set from the archive, unless an earlier call has done so.

        This is recorded only after the data set was committed, so that half of one is never taken for a whole one.
        """
        if self._state["intake"]:
            return
        self._say("reading the data")
        (self.folder / layout.INTAKE_REPORT).unlink(missing_ok=True)
        status = self._wait(self._start(intake, "intake"))
        report = IntakeReport.read(self.folder)
        if report is None:
            self._died(f"the reading of the data broke off with status {status}", "data")
            self._read_data(intake)
            return
        if report.error is not None:
            raise StoppedError(report.error.code, report.error.message, report.error.param)
        self._commit()
        self._save(intake=True)
        self._commit()
        (self.folder / layout.ARCHIVE).unlink(missing_ok=True)

    def _attempt(self, trainer: Sequence[str]) -> None:
        """Run the trainer once; it resumes from the last checkpoint if there is one."""
        self._save(attempt=self._state["attempt"] + 1)
        for name in (layout.EXIT_RECORD, layout.PROGRESS):
            (self.folder / name).unlink(missing_ok=True)
        assignment = Assignment(
            job=self.request.id,
            attempt=self._state["attempt"],
            device=self.request.device,
            source=self.request.source,
            spec=self.request.spec,
            resume=self._state["attempt"] > 1,
        )
        assignment.write(self.folder)
        status = self._wait(self._start(trainer, "trainer"))
        if self._ending() is None:
            self._died(f"the training ended without a result, with status {status}", None)

    def _died(self, what: str, param: str | None) -> None:
        """Count a death of a worker; after ``DEATHS`` of them, stop: the machine may have too little memory."""
        self._save(deaths=self._state["deaths"] + 1)
        logger.warning("%s", what)
        if self._state["deaths"] >= DEATHS:
            message = f"{what}, {DEATHS} times: take a smaller model or a larger machine; the log has more"
            raise StoppedError("interrupted_often", message, param)

    def _start(self, command: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        env = processes.environment(self.request.id, self.folder, secrets=name == "trainer")
        env["TMPDIR"] = tempfile.mkdtemp(prefix="asr-")  # the volume is slower, and its files are kept
        return processes.start(command, self.folder, name, env, [])

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        """Wait for a worker to end, and commit the volume now and then; returns the exit status.

        Raises:
            StoppedError: The time limit is reached.
        """
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return child.wait(POLL_S)
                if self.seconds > self.request.max_seconds:
                    minutes = self.request.max_seconds / 60
                    message = f"the time of {minutes:.3g} minutes is over: give more --max_time or --max_cost"
                    raise StoppedError("timeout", message)
                if time.monotonic() >= self._next:
                    processes.cap_log(self.folder, "trainer", MAX_LOG_BYTES)
                    with self._paused():
                        self._commit()
        finally:
            processes.end_all(self.request.id)  # also processes that the worker left behind
            child.wait()

    @property
    def seconds(self) -> float:
        """Time that the training has taken so far, including earlier calls as far as it was committed."""
        return self._before + time.monotonic() - self._started

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Pause the worker, so that a commit has the state of a single moment, as after a kill."""
        processes.signal_all(self.request.id, signal.SIGSTOP)
        deadline = time.monotonic() + STOPS_WITHIN_S
        try:
            while not self._stands_still() and time.monotonic() < deadline:
                time.sleep(0.002)
            yield
        finally:
            processes.signal_all(self.request.id, signal.SIGCONT)

    def _stands_still(self) -> bool:
        workers = processes.of_job(self.request.id)
        with contextlib.suppress(psutil.Error):
            return all(process.status() == psutil.STATUS_STOPPED for process in workers)
        return False

    def _save(self, **changes: Any) -> None:
        self._state = {**self._state, **changes, "seconds": self.seconds}
        write_json(self.folder / STATE, self._state)

    def _say(self, message: str) -> None:
        Progress(attempt=0, phase=PREPARING, message=message, checks=[]).write(self.folder)
        self._commit()

    def _commit(self) -> None:
        """Commit the volume. A failure is logged; only several in a row end the training."""
        started = time.monotonic()
        self._save()
        try:
            self._commit_volume()
            self._failures = 0
        except Exception as error:  # any error of the provider's client
            self._failures += 1
            logger.warning("the volume cannot be committed: %s", error)
            if self._failures >= COMMIT_FAILURES:
                raise
        now = time.monotonic()
        self._next = now + max(self._commit_s, (now - started) / COMMIT_SHARE)

    def _commit_last(self) -> None:
        """Commit the volume; if the training has ended, then delete the recordings, whether or not a client comes."""
        self._commit_surely()
        if self._ending() is not None:
            for name in PRIVATE:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            self._commit_surely()

    def _commit_surely(self) -> None:
        self._save()
        for tries_left in range(COMMIT_FAILURES, 0, -1):
            try:
                self._commit_volume()
                return
            except Exception as error:
                logger.warning("the volume cannot be committed: %s", error)
                if tries_left == 1:
                    raise
                time.sleep(1.0)
