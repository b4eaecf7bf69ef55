"""What runs on the rented machine: one function, the same for every provider, and the same two commands as a server's.

The volume is laid out as a job's folder of the server. The function may be killed at any moment and called again on
what it had committed by then: it reads the data once, goes on from the last whole checkpoint, and trains nothing twice.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from asr_lightning.cloud.provider import Request
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
"""Most of the time that commits may take while the trainer waits."""
COMMIT_FAILURES = 5
DEATHS = 3
"""As often a trainer may end without a result, which a restart of the machine does not count for."""
STOPS_WITHIN_S = 2.0
MAX_LOG_BYTES = 8 << 20
PRIVATE = ("input", "dataset", "run", "tmp")
"""What an ended training needs no more."""


class StoppedError(Exception):
    """The training is over for good; ``error`` goes into ``exit.json``."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.error = Failure(code, message, param)


def train(
    folder: Path,
    request: Mapping[str, Any],
    commit: Callable[[], object],
    *,
    trainer: Sequence[str] = TRAINER,
    intake: Sequence[str] = INTAKE,
    commit_s: float = COMMIT_S,
) -> None:
    """Train on the volume in ``folder``; when it returns, the committed ``exit.json`` says how it ended.

    Args:
        folder: The mounted volume, with ``input/archive.tar.gz``.
        request: Of ``Request.as_dict``.
        commit: Makes what was written last, and visible from outside.
        trainer, intake: Command lines; the folder is added.
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
        finally:  # also when the provider takes the machine away, and says so
            processes.end_all(self.request.id)
            self._commit_last()

    def _ending(self) -> Ending | None:
        """How the training ended for good; None where it is to go on."""
        ending = Ending.read(self.folder, self._state["attempt"])
        return None if ending is None or (ending.error and ending.error.code in AGAIN) else ending

    def _read_data(self, intake: Sequence[str]) -> None:
        """Make the data set of the archive, once.

        That it was made is written down only after it was committed, so that no half of it is taken for the whole.
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
        """Start the trainer on what there is, and wait for it."""
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
        """Try again, but not for ever: the memory of the machine may be too small."""
        self._save(deaths=self._state["deaths"] + 1)
        logger.warning("%s", what)
        if self._state["deaths"] >= DEATHS:
            message = f"{what}, {DEATHS} times: take a smaller model or a larger machine; the log has more"
            raise StoppedError("interrupted_often", message, param)

    def _start(self, command: Sequence[str], name: str) -> subprocess.Popen[bytes]:
        env = processes.environment(self.request.id, self.folder, secrets=name == "trainer")
        env["TMPDIR"] = tempfile.mkdtemp(prefix="asr-")  # not on the volume, which is slower and kept
        return processes.start(command, self.folder, name, env, [])

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        """Wait for a worker while what it writes is committed now and then; returns its status.

        Raises:
            StoppedError: The time is over.
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
            processes.end_all(self.request.id)  # also what it left behind
            child.wait()

    @property
    def seconds(self) -> float:
        """Time so far, with that of earlier calls as far as it was committed."""
        return self._before + time.monotonic() - self._started

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        """Hold the worker still: what is committed is then the state of one moment, as after a kill."""
        processes.signal_all(self.request.id, signal.SIGSTOP)
        deadline = time.monotonic() + STOPS_WITHIN_S
        try:
            while not self._stands_still() and time.monotonic() < deadline:
                time.sleep(0.002)
            yield
        finally:
            processes.signal_all(self.request.id, signal.SIGCONT)

    def _stands_still(self) -> bool:
        found = processes.of_job(self.request.id)
        with contextlib.suppress(psutil.Error):
            return all(process.status() == psutil.STATUS_STOPPED for process in found)
        return False

    def _save(self, **changes: Any) -> None:
        self._state = {**self._state, **changes, "seconds": self.seconds}
        write_json(self.folder / STATE, self._state)

    def _say(self, message: str) -> None:
        Progress(attempt=0, phase=PREPARING, message=message, checks=[]).write(self.folder)
        self._commit()

    def _commit(self) -> None:
        """Commit; a failure is told, and ends the training only when it repeats."""
        started = time.monotonic()
        self._save()
        try:
            self._commit_volume()
            self._failures = 0
        except Exception as error:  # whatever the provider's client raises
            self._failures += 1
            logger.warning("the volume cannot be committed: %s", error)
            if self._failures >= COMMIT_FAILURES:
                raise
        now = time.monotonic()
        self._next = now + max(self._commit_s, (now - started) / COMMIT_SHARE)

    def _commit_last(self) -> None:
        """Commit; once the ending is safe, without the recordings, whether or not a client comes for the rest."""
        self._commit_surely()
        if self._ending() is not None:
            for name in PRIVATE:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            self._commit_surely()

    def _commit_surely(self) -> None:
        self._save()
        for left in range(COMMIT_FAILURES, 0, -1):
            try:
                self._commit_volume()
                return
            except Exception as error:
                logger.warning("the volume cannot be committed: %s", error)
                if left == 1:
                    raise
                time.sleep(1.0)
