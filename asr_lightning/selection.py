"""Which weights a run hands over: its best check, an average, a step back towards the untouched model, or that itself.

The untouched model is always a candidate, so no user gets one that dev or the canary calls worse. Dev alone selects;
test is never read here. Knows the adapter's contract and no model.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from asr_lightning import saved
from asr_lightning.callbacks.keep_best import KeepBest, average
from asr_lightning.canary import Canary
from asr_lightning.evaluation import Evaluation, evaluate
from asr_lightning.protocols import ASRAdapter
from asr_lightning.reports.statistics import bootstrap
from asr_lightning.results import pairs
from asr_lightning.scoring import Transcript, score
from asr_lightning.text import Normalizer

logger = logging.getLogger(__name__)

UNREADABLE = 0.9
"""Dev WER above which no weights are handed over. Transcripts that belong to other clips lower a WER of over 100 %:
the model learns to write less, which is no gain."""

DEAF = 0.5
"""Canary WER of an untouched model above which the canary is not in its language, and has no say."""

AS_TRAINED, NATIVE = "as trained", "native"


@dataclass(frozen=True)
class SelectionSettings:
    """How weights are chosen when training is over.

    Attributes:
        average: How many of the best checks are averaged for one more candidate; 1 for none.
        alphas: Steps between the untouched model, 0, and the specialized one, 1, that are tried as well.
            Source: WiSE-FT, Wortsman et al. 2022.
        min_probability: Of being better than the untouched model on dev, by paired bootstrap; below it that is kept.
            0.975 is where the 95 % interval of the report ends.
        canary: Folder of general speech; ``bundled``, or ``off`` for none.
        canary_limit: Most points of WER, absolute, that the canary may lose in either mode, against the untouched
            model in its native one.
    """

    average: int = 4
    alphas: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    min_probability: float = 0.975
    canary: str = "bundled"
    canary_limit: float = 0.5

    def __post_init__(self) -> None:
        if self.average < 1:
            raise ValueError(f"selection.average must be at least 1, not {self.average}")
        if not all(0 < alpha < 1 for alpha in self.alphas):
            raise ValueError(f"selection.alphas lie between 0 and 1, which are always tried; not {self.alphas}")
        if not 0 <= self.min_probability <= 1 or self.canary_limit < 0:
            raise ValueError("selection.min_probability is a share, and selection.canary_limit must not be negative")


@dataclass
class Candidate:
    """Weights that could be handed over.

    Attributes:
        name: In words.
        alpha: 0 is the untouched model, 1 the specialized one.
        wer: Corpus WER on dev.
        dev: What it wrote for dev.
        canary: What it wrote for the canary, by mode; empty where that was not asked.
        note: Why it was left out.
        chosen: Whether it is handed over.
    """

    name: str
    alpha: float
    wer: float
    dev: Evaluation
    canary: dict[str, tuple[Transcript, ...]] = field(default_factory=dict)
    note: str = ""
    chosen: bool = False

    @property
    def order(self) -> tuple[float, float]:
        """The lower the better."""
        return self.wer, self.dev.loss

    @property
    def used(self) -> dict[str, tuple[Transcript, ...]]:
        """``canary`` in the modes that it would be used in: the untouched model only in its native one."""
        return {mode: transcripts for mode, transcripts in self.canary.items() if self.alpha or mode == NATIVE}


class Line:
    """The straight line between two sets of weights of one architecture, walked inside ``tuned``.

    Args:
        base: The untouched network.
        tuned: The specialized one, whose weights ``set`` changes.
    """

    def __init__(self, base: nn.Module, tuned: nn.Module) -> None:
        start = {name: tensor.cpu() for name, tensor in base.state_dict().items()}
        self._weights = [
            (tensor, start[name], tensor.detach().cpu().clone())
            for name, tensor in tuned.state_dict().items()
            if tensor.is_floating_point() and not torch.equal(tensor.cpu(), start[name])
        ]

    @torch.no_grad()
    def set(self, alpha: float) -> None:
        """Put ``base + alpha * (tuned - base)`` into the network; exactly ``tuned`` for 1."""
        for tensor, start, end in self._weights:
            tensor.copy_(end if alpha == 1 else torch.lerp(start, end, alpha))


@dataclass
class Selection:
    """Scores candidates on dev and on the canary, and keeps what it found.

    Attributes:
        data: The data module, set up.
        device: Where to compute.
        normalize: Of every WER.
        settings: The rules.
        canary: General speech; None for none.
        base_dev: What the untouched model wrote for dev, natively.
        candidates: All that was scored, in order.
        canary_note: Why the canary had no say.
    """

    data: Any
    device: torch.device | str
    normalize: Normalizer
    settings: SelectionSettings
    canary: Canary | None
    base_dev: Evaluation
    candidates: list[Candidate] = field(default_factory=list)
    canary_note: str = ""

    def run(self, live: ASRAdapter, source: ASRAdapter, best: KeepBest, target: Path) -> Candidate:
        """Choose, and write the chosen model to ``target``, which appears or changes as a whole.

        Args:
            live: The adapter that was trained.
            source: The untouched one, as the run started from.
            best: The kept checks.
            target: Folder of the model.
        """
        live.model.to(self.device)
        base = Candidate("untouched model", 0.0, self.wer(self.base_dev.transcripts), self.base_dev)
        self.candidates = [base]
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            end = self._best_end(live, best)
            if end is None:
                base.note = "no check of dev was reached in time"
                return self._hand_over(base, source.native(), target)
            untouched, tuned = _written(source, Path(folder) / "base"), _written(live, Path(folder) / "tuned")
        live.model.cpu()
        line = Line(untouched.model, tuned.model)
        chosen = self._walk(base, end, untouched, tuned, line)
        line.set(chosen.alpha)
        return self._hand_over(chosen, tuned if chosen.alpha else untouched.native(), target)

    def _best_end(self, live: ASRAdapter, best: KeepBest) -> Candidate | None:
        """Score the best check and the average of the best; the better one's weights are left in ``live``."""
        checks = [check for check in best.best if best.path(check).exists()]  # a kill may have come between
        states = [load_file(best.path(check)) for check in checks]
        if not states:
            return None
        tried = [(f"epoch {checks[0].epoch:.1f}", states[0])]
        if min(self.settings.average, len(states)) > 1:
            used = states[: self.settings.average]
            tried.append((f"average of the best {len(used)} checks", average(used)))
        for name, state in tried:
            live.model.load_state_dict(state, strict=False)
            self._score(live, name, 1.0)
        end, *others = sorted(self.candidates[1:], key=lambda candidate: candidate.order)
        for other in others:
            other.note = "has a higher dev WER than the other end"
        live.model.load_state_dict(dict(tried)[end.name], strict=False)
        return end

    def _score(self, adapter: ASRAdapter, name: str, alpha: float) -> Candidate:
        adapter.model.to(self.device)
        dev = evaluate(adapter, self.data.loader("dev", adapter.collator(), distributed=False), self.device)
        found = Candidate(name, alpha, self.wer(dev.transcripts), dev)
        self.candidates.append(found)
        logger.info("candidate: %s, alpha %g: dev WER %.1f %%", name, alpha, 100 * found.wer)
        return found

    def _walk(self, base: Candidate, end: Candidate, untouched: ASRAdapter, tuned: ASRAdapter, line: Line) -> Candidate:
        """From the specialized weights back towards the untouched ones, no farther than needed.

        Each step costs the speaker words: once dev WER rises, the first candidate that passes ends the walk. Returns
        the passing one with the lowest dev WER, the untouched model if none does.
        """
        passed: Candidate | None = None
        previous = end
        for alpha in (1.0, *sorted(self.settings.alphas, reverse=True)):
            line.set(alpha)
            candidate = end if alpha == 1 else self._score(tuned, end.name, alpha)
            rises = candidate.order > previous.order
            if passed and rises:
                break
            if self._passes_dev(base, candidate) and self._passes_canary(base, candidate, untouched, tuned):
                passed = candidate
                if rises:
                    break
            previous = candidate
        return passed or base

    def _passes_dev(self, base: Candidate, candidate: Candidate) -> bool:
        if candidate.wer > UNREADABLE:
            candidate.note = f"gets more than {UNREADABLE:.0%} of the words wrong: check the transcripts"
            return False
        better = bootstrap(pairs(base.dev.transcripts, candidate.dev.transcripts), self.normalize).p_better
        if better < self.settings.min_probability:
            least = self.settings.min_probability
            candidate.note = f"is better than it with a probability of {better:.2f}, less than {least:g}"
            return False
        return True

    def _passes_canary(self, base: Candidate, candidate: Candidate, untouched: ASRAdapter, tuned: ASRAdapter) -> bool:
        if self.canary is None or self.canary_note:
            return True
        if not base.canary:
            base.canary = {mode: self.canary.untouched(adapter, self.device) for mode, adapter in _modes(untouched)}
        before = self.wer(base.canary[NATIVE])
        if before > DEAF:
            base.canary, self.canary_note = {}, f"Not used: the untouched model reads {before:.0%} of it wrong."
            logger.info("canary: %s", self.canary_note)
            return True
        for mode, adapter in _modes(tuned):
            candidate.canary[mode] = self.canary.transcripts(adapter, self.device, drafts=base.canary[NATIVE])
            after = self.wer(candidate.canary[mode])
            name, alpha = candidate.name, candidate.alpha
            logger.info("candidate: %s, alpha %g: canary WER %.1f %% %s", name, alpha, 100 * after, mode)
            if (rise := 100 * (after - before)) > self.settings.canary_limit:
                candidate.note = (
                    f"loses {rise:.1f} points on the canary ({mode}), more than {self.settings.canary_limit:g}"
                )
                return False
        return True

    def _hand_over(self, chosen: Candidate, adapter: ASRAdapter, target: Path) -> Candidate:
        chosen.chosen = True
        saved.replace(target, adapter.save)
        return chosen

    def wer(self, transcripts: Sequence[Transcript]) -> float:
        """Corpus WER, as a fraction."""
        return score(transcripts, self.normalize).wer


def _modes(adapter: ASRAdapter) -> list[tuple[str, ASRAdapter]]:
    """Ways to use ``adapter``, the quicker one first, so that a loss is found soon."""
    native = (NATIVE, adapter.native())
    return [native] if native[1] is adapter else [(AS_TRAINED, adapter), native]


def _written(adapter: ASRAdapter, folder: Path) -> ASRAdapter:
    """``adapter`` as any user would load it: low-rank matrices and the like are merged, so names can be compared."""
    folder.mkdir()
    adapter.save(folder)
    loaded: ASRAdapter = saved.load(folder)
    return loaded
