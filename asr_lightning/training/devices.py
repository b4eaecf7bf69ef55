"""Precision for each kind of device, in one table. Knows no model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def accelerator_in_use(requested: str) -> str:
    """The accelerator that Lightning will take for ``requested``: cuda, mps or cpu."""
    if requested in ("auto", "gpu"):
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    return requested


def default_precision(accelerator: str, ampere: bool = True) -> Precision:
    """The precision that trains well without loss scaling where the device can do so.

    Args:
        accelerator: cuda, mps or cpu.
        ampere: Whether the CUDA device computes in bfloat16 (compute capability 8.0 or newer).

    Source: MPS rejects or ignores half precision (transformers #32648); bf16 gains nothing on AVX2.
    """
    if accelerator != "cuda":
        return "32-true"
    return "bf16-mixed" if ampere else "16-mixed"


def resolve_precision(requested: str) -> Precision:
    """``default_precision`` of this machine for the accelerator flag ``requested``."""
    accelerator = accelerator_in_use(requested)
    ampere = accelerator != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return default_precision(accelerator, ampere)


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """float32 in earnest inside: no autocast, and no TF32, whose 10 bits are 1e-3 of a sum."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    has_autocast = torch.amp.is_autocast_available(device.type)
    try:
        with torch.autocast(device.type, enabled=False) if has_autocast else nullcontext():
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` of the CPU on ``device``, without a wait: a GPU fetches it from page-locked memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB: on the GPU if one was used, else resident in RAM."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
