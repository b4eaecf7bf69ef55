"""Lock files that the kernel releases when the process that holds them ends, however it ends."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

from asr_lightning.durable.files import flags

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

BYTE = 2**30
"""Position of the byte that is locked on Windows, behind all content: other processes cannot read a locked byte."""


def take_lock(path: Path) -> int | None:
    """A descriptor that holds the lock file ``path``; None while another process holds it.

    The kernel releases the lock when the last process that has the descriptor ends, so neither timeouts nor process ids
    are needed.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags("O_NOFOLLOW", "O_CLOEXEC"), 0o600)
    try:
        _lock(descriptor)
    except (BlockingIOError, PermissionError):  # the latter on Windows
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    msvcrt = importlib.import_module("msvcrt")
    os.lseek(descriptor, BYTE, os.SEEK_SET)
    msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    os.lseek(descriptor, 0, os.SEEK_SET)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file ``path``."""
    if not path.exists():
        return False
    descriptor = take_lock(path)
    if descriptor is not None:
        os.close(descriptor)
    return descriptor is None
