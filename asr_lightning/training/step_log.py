"""Collects the losses of training steps and reads them every few seconds, since each read waits for the GPU.

Knows recordings by name, and no model. Used by ``module.py``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from asr_lightning.scoring.text import name_some

READ_SECONDS = 5.0
"""Seconds between two reads. One wait in that time costs less than 1 %, and TensorBoard reads no more often."""


class StepLog:
    """Losses of the steps since the last read, still on the device.

    Attributes:
        loss: Loss of the last batch that was read; NaN before the first one.
    """

    def __init__(self) -> None:
        self.loss = math.nan
        self._batches: list[tuple[int, Sequence[str], dict[str, Tensor]]] = []
        self._last_read = time.monotonic()

    def add(self, step: int, uids: Sequence[str], loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Remember the losses of a batch. A loss on the CPU is tested at once, since that needs no waiting.

        Args:
            step: Number of optimizer steps before this batch.
            uids: Names of the recordings in the batch.
            loss: The loss of the batch, a scalar.
            parts: Named parts of the loss, detached scalars.

        Raises:
            ValueError: The loss is on the CPU and not finite.
        """
        self._batches.append((step, uids, {"loss": loss.detach().float(), **parts}))
        if loss.device.type == "cpu":
            _require_finite(uids, loss.item())

    @property
    def due(self) -> bool:
        """Whether it is time for the next read."""
        return time.monotonic() - self._last_read > READ_SECONDS

    def read(self) -> dict[int, dict[str, float]]:
        """Return the named values of the last batch of each step since the last read; waits for the GPU only once.

        Raises:
            ValueError: A loss is not finite.
        """
        batches, self._batches = self._batches, []
        self._last_read = time.monotonic()
        if not batches:
            return {}
        values = torch.stack([value.float() for *_, named in batches for value in named.values()]).tolist()
        by_step: dict[int, dict[str, float]] = {}
        for step, uids, named in batches:
            by_step[step] = {name: values.pop(0) for name in named}
            _require_finite(uids, by_step[step]["loss"])
            self.loss = by_step[step]["loss"]
        return by_step


def _require_finite(uids: Sequence[str], loss: float) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss of the recordings {name_some(uids)} is {loss}: lower --model.optimizer.lr, or listen to them"
        )
