"""Makes large CPU tensors reuse freed memory and use huge pages, since page faults of fresh memory cost time.

With both, the 30 s window of whisper-tiny.en took 0.39 s a clip instead of 0.48 s on two cores
(``benchmarks/memory.py``). This works on Linux with glibc only; elsewhere nothing happens. Imports no torch.
"""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
REUSED_BYTES = 2**30


def keep() -> None:
    """Configure glibc and torch, before torch is imported. A user's ``THP_MEM_ALLOC_ENABLE`` is respected."""
    if platform.libc_ver()[0] != "glibc":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # https://github.com/pytorch/pytorch/pull/107697
    libc = ctypes.CDLL(None)
    for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        libc.mallopt(setting, REUSED_BYTES)
