"""Modes of a network: train and eval, and what an evaluation pass may keep. Knows no model; imported by adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

import torch
from torch import nn

from asr_lightning.types import SpeechBatch

T = TypeVar("T")


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule has its own mode again, frozen parts included."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Shared(Generic[T]):
    """What the loss and the text of one batch share during an evaluation pass, when no weight changes.

    Without it the encoder, most of the work, would run twice for every dev clip.
    """

    def __init__(self) -> None:
        self._passes = 0
        self._found: tuple[SpeechBatch, T] | None = None

    @contextmanager
    def evaluating(self, model: nn.Module) -> Iterator[None]:
        """``evaluation_mode``; the outermost one forgets at its end."""
        self._passes += 1
        try:
            with evaluation_mode(model):
                yield
        finally:
            self._passes -= 1
            if not self._passes:
                self._found = None

    def of(self, batch: SpeechBatch, compute: Callable[[SpeechBatch], T]) -> T:
        """``compute(batch)``, or what it gave a moment ago for this very batch; anew wherever a gradient is wanted."""
        if torch.is_grad_enabled() or not self._passes:
            return compute(batch)
        if self._found is None or self._found[0] is not batch:
            self._found = batch, compute(batch)
        return self._found[1]

    def take(self, batch: SpeechBatch, compute: Callable[[SpeechBatch], T]) -> T:
        """The same for the last time: the caller may change what it gets."""
        result = self.of(batch, compute)
        self._found = None
        return result
