"""The memory of this process: its peak, and how freed memory is used again. Imports no torch.

``keep`` makes large CPU tensors reuse freed memory and use huge pages, since page faults of fresh memory cost time.
With both, the 30 s window of whisper-tiny.en took 0.39 s a clip instead of 0.48 s on two cores
(``benchmarks/memory.py``). This works on Linux with glibc only; elsewhere nothing happens.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
from importlib.util import find_spec
from pathlib import Path

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


def peak_mb() -> float:
    """Peak of the resident memory of this process in MB.

    Linux hands the peak of ``getrusage`` on to the processes that a large one starts, so ``/proc`` is asked there.
    Windows tells it to psutil alone; without that package it is 0 there.
    """
    status = Path("/proc/self/status")
    if status.is_file() and (peak := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(peak[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return _peak_by_psutil()
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _peak_by_psutil() -> float:
    if find_spec("psutil") is None:
        return 0.0
    import psutil

    used = psutil.Process().memory_info()
    return float(getattr(used, "peak_wset", used.rss)) / 1e6
