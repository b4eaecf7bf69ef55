"""Large tensors of the CPU in memory that is kept and comes in huge pages, since faults for fresh pages cost time.

With both, the 30 s window of whisper-tiny.en took 0.39 s a clip instead of 0.48 on two cores
(``benchmarks/memory.py``). Linux with glibc only; elsewhere nothing happens. Loads no torch.
"""

from __future__ import annotations

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 2**30


def keep() -> None:
    """Ask for it; to be called before torch is imported. A user's own ``THP_MEM_ALLOC_ENABLE`` stands."""
    if platform.libc_ver()[0] != "glibc":
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # https://github.com/pytorch/pytorch/pull/107697
    libc = ctypes.CDLL(None)
    for setting in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
        libc.mallopt(setting, KEPT_BYTES)
