"""The precision of a trainer: the device's own, and bfloat16 steps on CPUs that compute in it. Knows no model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision

from asr_lightning.training.devices import accelerator_in_use, resolve_precision

logger = logging.getLogger(__name__)


class BFloat16Steps(MixedPrecision):
    """Training steps in bfloat16 on a CPU; validation stays in float32.

    In bfloat16 two tokens tie so often that decoding could not start from a draft, which costs more than it saves.
    """

    def __init__(self) -> None:
        super().__init__("bf16-mixed", "cpu")

    @contextmanager
    def val_step_context(self) -> Iterator[None]:
        """Plain float32."""
        yield


def has_bfloat16() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 by itself (AVX512-BF16 or AMX); emulation would be slower."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def precision_of(accelerator: str, given: Any, bf16_on_cpu: bool) -> dict[str, Any]:
    """The trainer's ``precision`` and ``plugins`` for an accelerator flag.

    Args:
        accelerator: As the trainer takes it, such as auto.
        given: The user's precision; None leaves the choice to the device.
        bf16_on_cpu: Whether steps on a CPU may be in bfloat16.
    """
    if given is None and bf16_on_cpu and accelerator_in_use(accelerator) == "cpu" and has_bfloat16():
        logger.info("precision: steps in bfloat16, validation in float32")
        return {"plugins": [BFloat16Steps()]}
    precision = given or resolve_precision(accelerator)
    logger.info("precision %s", precision)
    return {"precision": precision, "plugins": []}
