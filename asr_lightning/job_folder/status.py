"""The thread of a trainer that writes its progress and looks for the cancel flag. Loads no torch.

Training never waits for the disk, since this thread writes ``progress.json``. A phase without batches, such as loading
a model, is cancelled as well, since this thread looks for the flag.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from asr_lightning.job_folder.ending import Ending
from asr_lightning.job_folder.failure import CANCELLED, CancelledError
from asr_lightning.job_folder.progress import PREPARING, Phase, Position, Progress, ProgressChanges
from asr_lightning.job_folder.worker import is_cancelled

logger = logging.getLogger(__name__)

POLL_S = 0.2
WRITE_S = 1.0
"""Seconds between two writes of progress within one phase."""
STOP_S = 2.0
"""Seconds from the cancel flag until the process is ended wherever it is; the files it writes survive even SIGKILL."""


class TrainerStatus:
    """Reports the progress of a trainer, notices a cancellation, and writes the one ending.

    Args:
        job: The job's folder.
        attempt: Number of this attempt.
        epochs: Planned epochs.
        leave: Ends the process with an exit status.
    """

    def __init__(self, job: Path, attempt: int, epochs: int, leave: Callable[[int], object] = os._exit) -> None:
        self.job = job
        self._progress = Progress(
            attempt=attempt, phase=PREPARING, message="loading base model", epochs=epochs, checks=[]
        )
        self._changes = ProgressChanges()  # since ``_progress``: merging a dict costs less than a new object a batch
        self._dirty = False
        self._leave = leave
        self._lock = threading.Lock()
        self._ended = False
        self._cancelled, self._closing, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._watch, name="job status", daemon=True)

    @property
    def progress(self) -> Progress:
        """The current progress."""
        with self._lock:
            return self._merged()

    def _merged(self) -> Progress:
        if self._changes:
            self._progress, self._changes = replace(self._progress, **self._changes), ProgressChanges()
        return self._progress

    def start(self) -> None:
        """Write the first progress, and start watching."""
        self._write()
        self._thread.start()

    def phase(self, phase: Phase, message: str, **position: Unpack[Position]) -> None:
        """Enter a phase, and write that at once.

        Raises:
            CancelledError: The user cancelled the job.
        """
        self.check()
        self.update(phase=phase, message=message, **position)
        self._wake.set()

    def update(self, **changes: Unpack[ProgressChanges]) -> None:
        """Change the progress; it is written within about a second."""
        with self._lock:
            self._changes = {**self._changes, **changes}
            self._dirty = True

    def check(self) -> None:
        """Stop here if the user cancelled the job. This makes no system call.

        Raises:
            CancelledError: The user cancelled the job.
        """
        if self._cancelled.is_set():
            raise CancelledError

    def end(self, ending: Ending) -> bool:
        """Write ``exit.json``, the first time only; returns whether this was the first time.

        Raises:
            OSError: The file cannot be written.
        """
        with self._lock:
            if self._ended:
                return False
            ending.write(self.job)
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
                self._stop_process()
                return
            if self._dirty and (urgent or now - written >= WRITE_S):
                self._write()
                written = now
        if self._dirty:
            self._write()

    def _write(self) -> None:
        with self._lock:
            progress, self._dirty = self._merged(), False
        try:
            progress.write(self.job)
        except (OSError, ValueError) as error:  # a file that must be written fails by itself, with a better message
            logger.warning("progress.json cannot be written: %s", error)

    def _stop_process(self) -> None:
        """End the process in a phase that never calls ``check``, such as loading a model."""
        try:
            first = self.end(Ending.failed(self._progress.attempt, CANCELLED))
        except OSError:
            first = True  # the flag is proof enough
        if first:
            logger.info("cancelled")
            sys.stderr.flush()
            self._leave(1)
