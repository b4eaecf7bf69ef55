"""Restrict the calling process before it reads untrusted audio. Uses only the standard library.

A step that the system does not support is left out. On every system, the parent gives the process a clean environment
without open descriptors, and limits its time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
import sys

CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC = 0x1000_0000, 0x4000_0000, 0x0800_0000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38
# Landlock: numbers are the same on x86-64 and arm64. Bits of ABI 1: execute, write, remove, make.
LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446
LANDLOCK_CHANGES = 0b1_1111_1111_0011
MAX_DESCRIPTORS = 32


def before_imports() -> None:
    """Make the process end with its parent, and cut it off from the network. It must still have only one thread."""
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC)  # refused where users may not make namespaces
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # last, since a change of rights may clear it


def after_imports(memory_bytes: int, file_bytes: int) -> None:
    """Limit memory, file sizes and descriptors, and forbid core files, new programs and changes to any file system.

    Args:
        memory_bytes: Largest address space.
        file_bytes: Largest file that may be written.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, file_bytes)
    _limit(resource.RLIMIT_NOFILE, MAX_DESCRIPTORS)
    _limit(resource.RLIMIT_AS, memory_bytes)  # macOS accepts no such limit; the bound on samples holds there
    if sys.platform.startswith("linux"):
        _forbid_changes(ctypes.CDLL(None, use_errno=True))


def limit_cpu(seconds: float) -> None:
    """Let the process use ``seconds`` more seconds of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, value))


def _forbid_changes(libc: ctypes.CDLL) -> None:
    """Forbid new programs and changes to file systems by Landlock (Linux 5.13); open files can still be written."""
    attributes = struct.pack("Q", LANDLOCK_CHANGES)
    rules = libc.syscall(LANDLOCK_CREATE, ctypes.c_char_p(attributes), ctypes.c_size_t(len(attributes)), 0)
    if rules >= 0:
        libc.syscall(LANDLOCK_RESTRICT, rules, 0)
        os.close(rules)
