"""What a worker process does for the server that started it: hold its locks for life, and look for the cancel flag."""

from __future__ import annotations

import os
from pathlib import Path

from asr_lightning.job_folder import layout

LOCKS = "ASR_LOCK_FD"
"""Environment variable with the descriptors of the locks."""
JOB = "ASR_JOB"
"""Environment variable with the id of the job."""


def hold_locks() -> None:
    """Keep the inherited lock descriptors until this process ends, and out of every process that it starts.

    The kernel frees a lock when its last descriptor is closed, so a data loader that outlives its trainer would keep
    the job alive: forked children close them, executed ones never get them.
    """
    descriptors = [int(number) for number in os.environ.pop(LOCKS, "").split(",") if number]
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)

    def close_all() -> None:
        for descriptor in descriptors:
            os.close(descriptor)

    if descriptors:
        os.register_at_fork(after_in_child=close_all)


def is_cancelled(folder: Path) -> bool:
    """Whether the user cancelled the job in ``folder``."""
    return (folder / layout.CANCEL_FLAG).exists()
