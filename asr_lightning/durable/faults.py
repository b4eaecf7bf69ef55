"""Named points at which a test can make the program die, fail or run out of disk. Off unless ASR_FAULT is set.

``ASR_FAULT=submit.moved:kill`` ends the process there with SIGKILL; ``exception``, ``enospc`` and ``eio`` raise.
``ASR_FAULT=submit.moved:kill:3`` does so when the point is reached for the third time. The promises of
docs/server_promises.md are tested with it.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

VARIABLE = "ASR_FAULT"
MODES = ("kill", "exception", "enospc", "eio")
_passed: Counter[str] = Counter()


class InjectedError(RuntimeError):
    """Raised by the mode ``exception``."""


def forget() -> None:
    """Forget how often each point was reached."""
    _passed.clear()


def point(name: str) -> None:
    """Fail here if the environment variable names this point."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    place, mode, *number = wanted.split(":")
    if place != name:
        return
    _passed[wanted] += 1
    if _passed[wanted] != int(number[0] if number else 1):
        return
    if mode == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if mode in ("enospc", "eio"):
        code = errno.ENOSPC if mode == "enospc" else errno.EIO
        raise OSError(code, os.strerror(code))
    raise InjectedError(f"injected at {name}")
