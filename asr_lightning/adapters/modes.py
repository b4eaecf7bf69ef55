"""Train and eval modes of a network. Knows no model; adapters import it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from asr_lightning.protocols import ASRAdapter
from asr_lightning.types import EvaluationOutput, SpeechBatch


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into eval mode inside the context, and restore the mode of every submodule after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@torch.no_grad()
def loss_and_texts(adapter: ASRAdapter, batch: SpeechBatch) -> EvaluationOutput:
    """Do ``ASRAdapter.evaluate`` for an adapter whose loss and text share no work."""
    with evaluation_mode(adapter.model):
        return EvaluationOutput(adapter.loss(batch), adapter.transcribe(batch))
