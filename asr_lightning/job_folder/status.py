"""What a trainer tells the server while it works, and how it hears of a cancel: one thread beside the training.

The thread writes ``progress.json``, so that training never waits for the disk, and looks for the cancel flag, so that
phases without batches end as well. Loads no torch.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr_lightning.durable.files import write_json
from asr_lightning.job_folder.ending import CancelledError
from asr_lightning.job_folder.worker import is_cancelled

logger = logging.getLogger(__name__)

POLL_S = 0.2
WRITE_S = 1.0
"""Between two writes of progress within one phase."""
STOP_S = 2.0
"""From the cancel flag until the process is ended where it stands; every file it writes survives a SIGKILL as well."""


class TrainerStatus:
    """Progress out, cancel in, and the one ending.

    Args:
        job: Folder of the job.
        attempt: Of the job.
        epochs: Planned.
        leave: Ends the process.

    Attributes:
        progress: As it goes into ``progress.json``.
    """

    def __init__(self, job: Path, attempt: int, epochs: int, leave: Callable[[int], Any] = os._exit) -> None:
        self.job = job
        self.progress: dict[str, Any] = {
            "attempt": attempt, "phase": "preparing", "message": "loading base model", "epoch": None, "epochs": epochs,
            "step": None, "steps": None, "fraction": 0.0, "eta_s": None, "resumed_from": None, "checks": [],
            "base_wer": None,
        }  # fmt: skip
        self._leave = leave
        self._lock = threading.Lock()
        self._ended = False
        self._cancelled, self._closing, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._dirty = False
        self._thread = threading.Thread(target=self._watch, name="job status", daemon=True)

    def start(self) -> None:
        """Write the first progress, and start watching."""
        self._write()
        self._thread.start()

    def phase(self, phase: str, message: str, **changes: Any) -> None:
        """Enter ``phase``, one of ``states.PHASES``, and say so at once."""
        self.check()
        self.update(phase=phase, message=message, **changes)
        self._wake.set()

    def update(self, **changes: Any) -> None:
        """Change progress; it is written within a second or so."""
        with self._lock:
            self.progress = {**self.progress, **changes}
            self._dirty = True

    def check(self) -> None:
        """Stop here if the job was cancelled; costs no system call.

        Raises:
            CancelledError: It was.
        """
        if self._cancelled.is_set():
            raise CancelledError

    def end(self, ending: dict[str, Any]) -> bool:
        """Write ``exit.json``, the first time only; returns whether this was it.

        Raises:
            OSError: It cannot be written.
        """
        with self._lock:
            if self._ended:
                return False
            write_json(self.job / "exit.json", {"attempt": self.progress["attempt"], **ending})
            self._ended = True
            return True

    def close(self) -> None:
        """Write the last progress, and stop watching."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def _watch(self) -> None:
        written, cancelled_at = time.monotonic(), None
        while not self._closing.is_set():
            urgent = self._wake.wait(POLL_S)
            self._wake.clear()
            now = time.monotonic()
            if cancelled_at is None and is_cancelled(self.job):
                cancelled_at = now
                self._cancelled.set()
            if cancelled_at is not None and now - cancelled_at > STOP_S:
                self._stop_here()
                return
            if self._dirty and (urgent or now - written >= WRITE_S):
                self._write()
                written = now
        if self._dirty:
            self._write()

    def _write(self) -> None:
        with self._lock:
            progress, self._dirty = self.progress, False
        try:
            write_json(self.job / "progress.json", progress)
        except (OSError, ValueError) as error:  # what must be written fails by itself, and says more
            logger.warning("progress.json cannot be written: %s", error)

    def _stop_here(self) -> None:
        """End a phase that looks at no flag, such as loading a model."""
        try:
            mine = self.end(cancelled())
        except OSError:
            mine = True  # the flag is proof enough
        if mine:
            logger.info("cancelled")
            sys.stderr.flush()
            self._leave(1)


def cancelled() -> dict[str, Any]:
    """The ending of a job that was cancelled."""
    error = {"code": "cancelled", "message": "cancelled", "param": None}
    return {"code": 1, "error": error, "artifacts": {}, "metrics": None}
