"""The specialized weights that training leaves for selection. Knows no model.

Validations, folds and seeds come in this one form. An end has one part, or several whose average is handed over, each
with the dev clips that it was not trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from asr_lightning.callbacks.average_steps import AverageSteps
from asr_lightning.callbacks.keep_best import KeepBest, average

State = dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """Specialized weights, and the dev clips on which they are scored.

    Attributes:
        data: The data module of these dev clips.
        load: Loads the weights, by name. Weights that training did not change may be missing.
    """

    data: Any
    load: Callable[[], State]


@dataclass(frozen=True)
class End:
    """Specialized weights that could be handed over, or interpolated with the untouched ones.

    Attributes:
        name: Name for reports, such as ``average of 4 folds``.
        parts: Weights whose average is handed over. Together they read every dev clip once.
    """

    name: str
    parts: tuple[Part, ...]


def ends_of_validations(best: KeepBest, steps: AverageSteps, data: Any, count: int) -> tuple[End, ...]:
    """The best validation, the average of the best ``count``, and that of the later steps; empty if there was none."""
    validations = [v for v in best.best if best.path(v).exists()]  # a kill may have come between
    if not validations:
        return ()
    paths = [best.path(validation) for validation in validations]
    ends = [End(f"epoch {validations[0].epoch:.1f}", (Part(data, partial(load_file, paths[0])),))]
    if (used := min(count, len(paths))) > 1:
        part = Part(data, partial(average_of, paths[:used]))
        ends.append(End(f"average of the best {used} validations", (part,)))
    if steps.count > 1:
        ends.append(End(f"average of the last {steps.count} steps", (Part(data, lambda: steps.weights),)))
    return tuple(ends)


def average_of(paths: list[Path]) -> State:
    """The mean of the weights in the files."""
    return average([load_file(path) for path in paths])
