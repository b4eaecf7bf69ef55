"""Precision for each kind of device, in one table. Knows no model."""

from __future__ import annotations

import sys
from typing import Literal

import torch

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
    return default_precision(accelerator, accelerator != "cuda" or torch.cuda.is_bf16_supported())


def peak_memory_mb() -> float:
    """The most memory this process has held, in MB: on the GPU if one was used, else resident in RAM."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
