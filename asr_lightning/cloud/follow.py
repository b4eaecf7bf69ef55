"""Watches a training on a rented machine from outside, and cancels it if its own time limit does not stop it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from asr_lightning.cloud.ledger import Entry
from asr_lightning.cloud.provider import Moved, Provider
from asr_lightning.cloud.remote import STATE
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.ending import Ending
from asr_lightning.job_folder.failure import Failure
from asr_lightning.job_folder.progress import Progress

POLL_S = 2.0
FIRST_POLL_S, SLOWER = 0.1, 1.2
"""Seconds before the second poll, and the factor by which each further pause is longer."""
PATIENCE_S = 60.0
"""Seconds after the machine's own time limit at which the client cancels the training."""
START_WITHIN_S = 1800.0
TRIES = 5
PAUSE_S = 3.0
LOG = "logs/trainer.log"
NO_RESULT = "the training ended without a result: it was cancelled, its machine was taken away, or it did not start"

Answer = TypeVar("Answer")


class Show(Protocol):
    """Shows a rental to a person."""

    def say(self, text: str) -> None:
        """Show a line."""

    def log(self, data: bytes) -> None:
        """Show a further part of the trainer's log."""

    def progress(self, progress: Progress, cost: float) -> None:
        """How far the training is, and what it has cost so far, in USD."""

    def moved(self, what: str) -> Moved:
        """Open a progress bar for ``what``; returns the function that moves it."""


class Watch:
    """Watches one training.

    Args:
        entry: Entry of the rental, whose ``seconds`` are kept up to date.
        provider: Provider of the rental.
        show: Shows progress and log.
        poll_s: Longest pause between two polls, in seconds.
        pause_s: Pause after a failure of the provider, in seconds.
    """

    def __init__(
        self, entry: Entry, provider: Provider, show: Show, poll_s: float = POLL_S, pause_s: float = PAUSE_S
    ) -> None:
        self.entry, self.provider, self.show = entry, provider, show
        self._poll_s, self._pause_s = poll_s, pause_s
        self._log_offset = 0
        self._last: Progress | None = None
        self._began = self._seen = time.monotonic()
        self._seconds: float | None = None

    def until_over(self) -> Failure | None:
        """Wait for the end; returns the failure, or None after a success.

        Raises:
            Exception: The provider gave no answer several times in a row.
        """
        record = self.entry.record
        assert record.call is not None, "it was started"
        pause_s = FIRST_POLL_S
        while True:
            state = self._patiently(lambda: self.provider.poll(str(record.call)))
            self.look()
            if state != "running":
                return self._result()
            error = self._over_ceiling()
            if error is not None:
                self._patiently(lambda: self.provider.cancel(str(record.call)))
                return error
            pause_s = min(pause_s * SLOWER, self._poll_s)
            time.sleep(pause_s)

    def look(self) -> None:
        """Show the progress, and what is new in the log."""
        data = self._read(LOG, self._log_offset)
        if data:
            self._log_offset += len(data)
            self.show.log(data)
        state = self._json(STATE)
        if "seconds" in state and state["seconds"] != self._seconds:
            self._seconds, self._seen = float(state["seconds"]), time.monotonic()
            self.entry.record.seconds = self._seconds
        progress = Progress.from_json(self._json(layout.PROGRESS))
        if progress is not None and progress != self._last:
            self._last = progress
            self.show.progress(progress, self.entry.record.cost)

    def _result(self) -> Failure | None:
        ending = Ending.from_json(self._json(layout.EXIT_RECORD))
        self.entry.save()
        return Failure("interrupted", NO_RESULT) if ending is None else ending.error

    def _over_ceiling(self) -> Failure | None:
        now, limit = time.monotonic(), self.entry.record.max_seconds
        if self._seconds is None:
            if now - self._began < START_WITHIN_S:
                return None
            message = f"no machine in {START_WITHIN_S / 60:.0f} minutes: ask for another --gpu, or try again later"
            return Failure("no_machine", message, "gpu")
        if self._seconds + now - self._seen < limit + PATIENCE_S:
            return None
        message = f"the time of {limit / 60:.3g} minutes is over, and the machine did not stop: it was cancelled"
        return Failure("timeout", message, "max_time")

    def _read(self, path: str, offset: int = 0) -> bytes:
        volume = self.entry.record.volume
        assert volume is not None, "it was made"
        return self._patiently(lambda: self.provider.read(volume, path, offset)) or b""

    def _json(self, path: str) -> Mapping[str, Any]:
        try:
            document = json.loads(self._read(path) or b"{}")
        except ValueError:
            return {}  # cut off: there is another look
        return document if isinstance(document, dict) else {}

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """The result of ``ask``, which is called again if the provider fails."""
        for tries_left in range(TRIES - 1, 0, -1):
            try:
                return ask()
            except Exception as error:  # any error of the provider's client: networks fail for a moment
                self.show.say(f"{self.provider.name} gives no answer ({error}); {tries_left} more tries")
                time.sleep(self._pause_s)
        return ask()
