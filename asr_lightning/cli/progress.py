"""How far a recording is read, and how long the rest will take: on a terminal a line, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time
from typing import TextIO

OFTEN, SELDOM = 0.2, 30.0
"""Seconds between two lines, on a terminal and elsewhere."""
SOON = 2.0
"""Seconds before which nothing is shown."""


class Progress:
    """Shows progress on stderr.

    Args:
        file: Where to; stderr if it is None.
    """

    def __init__(self, file: TextIO | None = None) -> None:
        self._file = file or sys.stderr
        self._started = self._shown = time.monotonic()
        self._is_drawn = False

    def show(self, name: str, done: float, total: float) -> None:
        """Show that ``done`` of ``total`` seconds of the recording ``name`` are read; a ``total`` of 0 is unknown."""
        now = time.monotonic()
        on_terminal = self._file.isatty()
        if now - self._started < SOON or now - self._shown < (OFTEN if on_terminal else SELDOM):
            return
        self._shown = now
        self._file.write(f"\r\033[K{_text(name, done, total, now - self._started)}" if on_terminal else "")
        self._file.write("" if on_terminal else f"{_text(name, done, total, now - self._started)}\n")
        self._file.flush()
        self._is_drawn = on_terminal

    def restart(self) -> None:
        """Begin with the next recording."""
        self.clear()
        self._started = time.monotonic()

    def clear(self) -> None:
        """Remove the line, so that something else can be printed."""
        if self._is_drawn:
            self._file.write("\r\033[K")
            self._file.flush()
        self._is_drawn = False


def _text(name: str, done: float, total: float, taken: float) -> str:
    if not total or not done:
        return f"{name}: {clock(done)}"
    left = max(total - done, 0) * taken / done
    return f"{name}: {clock(done)} of {clock(total)} ({min(done / total, 1):.0%}), {clock(left)} left"


def clock(seconds: float) -> str:
    """``seconds`` as 3:07 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
