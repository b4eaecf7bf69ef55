"""What a worker process owes the server that started it: to hold its locks for life, and to look for a cancel flag."""

from __future__ import annotations

import os
from pathlib import Path

LOCKS = "ASR_LOCK_FD"
JOB = "ASR_JOB"


def hold_locks() -> None:
    """Keep the inherited lock descriptors until this process ends, and in no process that it starts.

    The kernel frees a lock when its last descriptor is closed, so a data loader that outlives its trainer would keep
    the job alive: forked children close them, executed ones never get them.
    """
    descriptors = [int(number) for number in os.environ.pop(LOCKS, "").split(",") if number]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)

    def let_go() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    if descriptors:
        os.register_at_fork(after_in_child=let_go)


def is_cancelled(folder: Path) -> bool:
    """Whether the job in ``folder`` is to stop."""
    return (folder / "cancel").exists()
