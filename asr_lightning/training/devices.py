"""What depends on the kind of device: the accelerator, its precision, transfers and memory. Knows no model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import torch
from torch import Tensor
from torch.amp.autocast_mode import is_autocast_available

from asr_lightning.training import memory

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
    """Peak memory of this process in MB: allocated on the GPU if one was used, otherwise resident in RAM."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated() / 1e6
    return memory.peak_mb()
