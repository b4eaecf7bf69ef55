"""Chooses a trainer's precision: that of the device, or bfloat16 steps on a CPU that has them. Knows no model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Required, TypedDict

import torch
from lightning.pytorch.plugins import MixedPrecision

from asr_lightning.training.devices import accelerator_in_use, resolve_precision

logger = logging.getLogger(__name__)


class BFloat16Steps(MixedPrecision):
    """Training steps in bfloat16 on a CPU, with validation in float32.

    In bfloat16 the scores of two tokens are equal so often that decoding cannot be sped up by a draft. That would cost
    more than bfloat16 saves.
    """

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")

    @contextmanager
    def val_step_context(self) -> Iterator[None]:
        """Validate in float32."""
        yield


def has_bfloat16() -> bool:
    """Whether this CPU has matrix products in bfloat16 (AVX512-BF16 or AMX); emulation would be slower than float32."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


class PrecisionOptions(TypedDict, total=False):
    """Options of a ``Trainer``; it takes either ``precision`` or a precision plugin."""

    precision: str | int
    plugins: Required[list[Any]]


def precision_options(accelerator: str, precision: str | int | None, bf16_on_cpu: bool) -> PrecisionOptions:
    """The options ``precision`` and ``plugins`` of a trainer.

    Args:
        accelerator: The trainer's option ``accelerator``, such as auto.
        precision: Precision that the user has chosen; None leaves the choice to the device.
        bf16_on_cpu: Whether steps on a CPU may be in bfloat16.
    """
    if precision is None and bf16_on_cpu and accelerator_in_use(accelerator) == "cpu" and has_bfloat16():
        logger.info("precision: steps in bfloat16, validation in float32")
        return {"plugins": [BFloat16Steps()]}
    precision = precision or resolve_precision(accelerator)
    logger.info("precision %s", precision)
    return {"precision": precision, "plugins": []}
