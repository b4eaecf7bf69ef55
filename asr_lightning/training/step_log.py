"""Losses of training steps, read from the device every few seconds: to read one is to wait for the GPU.

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
"""Between two reads: a wait of one step in that time is below 1 %, and TensorBoard looks no more often."""


class StepLog:
    """What the steps since the last read have found, still on the device.

    Attributes:
        loss: Of the last batch that was read; NaN before the first.
    """

    def __init__(self) -> None:
        self.loss = math.nan
        self._batches: list[tuple[int, Sequence[str], dict[str, Tensor]]] = []
        self._last_read = time.monotonic()

    def add(self, step: int, uids: Sequence[str], loss: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Remember a batch, and look at its loss where a look costs nothing.

        Args:
            step: Optimizer steps done.
            uids: The batch's recordings.
            loss: Scalar.
            parts: Detached named scalars.

        Raises:
            ValueError: The loss is not finite, and on the CPU.
        """
        self._batches.append((step, uids, {"loss": loss.detach().float(), **parts}))
        if loss.device.type == "cpu":
            _require_finite(uids, loss.item())

    @property
    def due(self) -> bool:
        """Whether it is time to read."""
        return time.monotonic() - self._last_read > READ_SECONDS

    def read(self) -> dict[int, dict[str, float]]:
        """Values by step, of the last batch of each, and none twice. One wait for all of them.

        Raises:
            ValueError: A loss is not finite.
        """
        batches, self._batches = self._batches, []
        self._last_read = time.monotonic()
        if not batches:
            return {}
        values = torch.stack([value.float() for *_, named in batches for value in named.values()]).tolist()
        found: dict[int, dict[str, float]] = {}
        for step, uids, named in batches:
            found[step] = {name: values.pop(0) for name in named}
            _require_finite(uids, found[step]["loss"])
            self.loss = found[step]["loss"]
        return found


def _require_finite(uids: Sequence[str], loss: float) -> None:
    if not math.isfinite(loss):
        raise ValueError(
            f"the loss of the recordings {name_some(uids)} is {loss}: lower model.optimizer.lr, or listen to them"
        )
