"""What depends on the kind of device: the accelerator, its precision, transfers and memory. Knows no model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def accelerator_in_use(requested: str) -> str:
    """The accelerator that Lightning will use for ``requested``: cuda, mps or cpu."""
    if requested in ("auto", "gpu"):
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    return requested


def default_precision(accelerator: str, ampere: bool = True) -> Precision:
    """The best precision for training on a device: without loss scaling, if the device allows that.

    MPS rejects or ignores half precision (transformers #32648), and bfloat16 gains nothing on a CPU with AVX2.

    Args:
        accelerator: cuda, mps or cpu.
        ampere: Whether the CUDA device supports bfloat16 (compute capability 8.0 or newer).
    """
    if accelerator != "cuda":
        return "32-true"
    return "bf16-mixed" if ampere else "16-mixed"


def resolve_precision(requested: str) -> Precision:
    """The ``default_precision`` on this machine for the accelerator flag ``requested``."""
    accelerator = accelerator_in_use(requested)
    ampere = accelerator != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return default_precision(accelerator, ampere)


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """A context with true float32: without autocast and without TF32, whose 10-bit mantissa has an error of 1e-3."""
    has_autocast = is_autocast_available(device.type)
    with matmul_precision("highest"), torch.autocast(device.type, enabled=False) if has_autocast else nullcontext():
        yield


@contextmanager
def matmul_precision(precision: str) -> Iterator[None]:
    """A context with the float32 matrix products of ``precision``: ``high`` is TF32 on GPUs that have it."""
    outside = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(outside)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy ``tensor`` from the CPU to ``device`` without waiting: a GPU reads it from page-locked memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def peak_memory_mb() -> float:
    """Peak memory of this process in MB: allocated on the GPU if one was used, otherwise resident in RAM.

    Windows tells it to psutil alone; without that package it is 0 there.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return _peak_by_psutil()
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _peak_by_psutil() -> float:
    if find_spec("psutil") is None:
        return 0.0
    import psutil

    used = psutil.Process().memory_info()
    return float(getattr(used, "peak_wset", used.rss)) / 1e6
