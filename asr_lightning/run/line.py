"""The straight line from the untouched model to specialized weights (WiSE-FT, Wortsman et al. 2022). Knows no model."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from asr_lightning.adapters import saved
from asr_lightning.callbacks.keep_best import average
from asr_lightning.protocols import ASRAdapter
from asr_lightning.run.ends import End, State


class Line:
    """The straight line between two sets of weights of one architecture, walked inside ``tuned``.

    Several lines may share both adapters.

    Args:
        untouched: The adapter of the model as it was.
        tuned: That of the specialized one, whose weights ``at`` changes.
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
        """``untouched + alpha * (end - untouched)`` on the CPU, where that is no untouched weight; the end for 1."""
        start = self.untouched.model.state_dict()
        return {
            name: end if alpha == 1 else torch.lerp(start[name].cpu(), end, alpha) for name, end in self.end.items()
        }

    @torch.no_grad()
    def at(self, alpha: float) -> ASRAdapter:
        """``tuned`` with the weights at ``alpha``; exactly the end's for 1."""
        start, moved = self.untouched.model.state_dict(), self.weights(alpha)
        # The state is read anew each time: a model that moves to a GPU gets other tensors.
        for name, tensor in self.tuned.model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(moved.get(name, start[name]))
        return self.tuned


@dataclass(frozen=True)
class Walk:
    """The lines to all parts of an end, in step, and the line to their average, which is handed over.

    Attributes:
        parts: Each with the data whose dev it reads.
        average: For one part its own line.
    """

    parts: tuple[tuple[Line, Any], ...]
    average: Line

    def states(self, alpha: float) -> list[State]:
        """All weights of each part at ``alpha``, on the CPU."""
        start = {name: tensor.cpu() for name, tensor in self.average.untouched.model.state_dict().items()}
        return [start | line.weights(alpha) for line, _ in self.parts]


def walk_to(end: End, live: ASRAdapter, source: ASRAdapter, folder: Path) -> Walk:
    """The way from the untouched model to ``end``.

    Args:
        end: Where it goes.
        live: The adapter that was trained; its weights are changed.
        source: The untouched one.
        folder: For files that are removed again.
    """
    with tempfile.TemporaryDirectory(dir=folder) as place:
        untouched = _written(source, Path(place) / "base")
        lines: list[Line] = []
        for number, part in enumerate(end.parts):
            written = _written(loaded(live, part.load()), Path(place) / f"part-{number}")
            lines.append(Line(untouched, lines[0].tuned if lines else written, written.model.state_dict()))
    if len(lines) == 1:
        return Walk(((lines[0], end.parts[0].data),), lines[0])
    start = untouched.model.state_dict()
    mean = Line(untouched, lines[0].tuned, average([start | line.end for line in lines]))
    return Walk(tuple((line, part.data) for line, part in zip(lines, end.parts, strict=True)), mean)


def loaded(adapter: ASRAdapter, state: State) -> ASRAdapter:
    """``adapter`` with the weights ``state``."""
    adapter.model.load_state_dict(state, strict=False)
    return adapter


def _written(adapter: ASRAdapter, folder: Path) -> ASRAdapter:
    """``adapter`` as any user would load it: low-rank matrices and the like are merged, so names can be compared."""
    folder.mkdir()
    adapter.save(folder)
    written: ASRAdapter = saved.load(folder)
    return written
