"""Weights between those of the untouched model and specialized ones (WiSE-FT, Wortsman et al. 2022). Knows no model."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asr_lightning.adapters import saved
from asr_lightning.callbacks.keep_best import average
from asr_lightning.protocols import ASRAdapter
from asr_lightning.run.ends import End, State


class Interpolation:
    """Linear interpolation between the weights of the untouched model and specialized weights.

    Several interpolations may share both adapters.

    Args:
        untouched: Adapter of the untouched model.
        tuned: Adapter of a specialized model of the same architecture. ``at`` overwrites its weights.
        end: The specialized weights; None for those that ``tuned`` has now.
    """

    def __init__(self, untouched: ASRAdapter, tuned: ASRAdapter, end: State | None = None) -> None:
        self.untouched, self.tuned = untouched, tuned
        start = untouched.model.state_dict()
        self.end = {
            name: tensor.cpu().clone()
            for name, tensor in (tuned.model.state_dict() if end is None else end).items()
            if tensor.is_floating_point() and not torch.equal(tensor.cpu(), start[name].cpu())
        }
        """The specialized weights that differ from the untouched ones."""

    def weights(self, alpha: float) -> State:
        """``untouched + alpha * (end - untouched)`` on the CPU, for the weights that training has changed."""
        start = self.untouched.model.state_dict()
        return {
            name: end if alpha == 1 else torch.lerp(start[name].cpu(), end, alpha) for name, end in self.end.items()
        }

    @torch.no_grad()
    def at(self, alpha: float) -> ASRAdapter:
        """``tuned`` with the weights at ``alpha``; for 1 exactly the specialized ones."""
        start, moved = self.untouched.model.state_dict(), self.weights(alpha)
        # The state is read anew each time: a model that moves to a GPU gets other tensors.
        for name, tensor in self.tuned.model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(moved.get(name, start[name]))
        return self.tuned


@dataclass(frozen=True)
class Walk:
    """The interpolations towards all parts of an end, and the one towards their average, which is handed over.

    Attributes:
        parts: The interpolation towards each part, with the data module whose dev clips it reads.
        average: The interpolation towards the average of the parts.
    """

    parts: tuple[tuple[Interpolation, Any], ...]
    average: Interpolation

    def states(self, alpha: float) -> list[State]:
        """The complete weights of each part at ``alpha``, on the CPU."""
        start = {name: tensor.cpu() for name, tensor in self.average.untouched.model.state_dict().items()}
        return [start | path.weights(alpha) for path, _ in self.parts]


def walk_to(end: End, live: ASRAdapter, source: ASRAdapter, folder: Path) -> Walk:
    """The interpolations between the untouched model and ``end``.

    Args:
        end: The specialized weights.
        live: The adapter that was trained. Its weights are overwritten.
        source: The adapter of the untouched model.
        folder: Folder for temporary files, which are removed again.
    """
    first, *others = end.parts
    tuned = _saved_and_loaded(loaded(live, first.load()), folder)
    names = tuned.model.state_dict().keys()
    untouched = _with_names(source, names, folder)
    paths = [Interpolation(untouched, tuned)]
    for part in others:
        state = _with_names(loaded(live, part.load()), names, folder).model.state_dict()
        paths.append(Interpolation(untouched, tuned, state))
    if not others:
        return Walk(((paths[0], first.data),), paths[0])
    start = untouched.model.state_dict()
    mean = Interpolation(untouched, tuned, average([start | path.end for path in paths]))
    return Walk(tuple((path, part.data) for path, part in zip(paths, end.parts, strict=True)), mean)


def loaded(adapter: ASRAdapter, state: State) -> ASRAdapter:
    """``adapter`` with the weights ``state``."""
    adapter.model.load_state_dict(state, strict=False)
    return adapter


def _with_names(adapter: ASRAdapter, names: Collection[str], folder: Path) -> ASRAdapter:
    """``adapter`` with weights of these ``names``: as it is, or as a saved one. Saving merges the matrices of LoRA."""
    return adapter if adapter.model.state_dict().keys() == names else _saved_and_loaded(adapter, folder)


def _saved_and_loaded(adapter: ASRAdapter, folder: Path) -> ASRAdapter:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        adapter.save(Path(place) / "model")
        loaded_again: ASRAdapter = saved.load(Path(place) / "model")
        return loaded_again
