"""Chooses the weights of a run: its best validation's, an average, a step back to the untouched model, or that itself.

The speaker comes first: the lowest dev WER wins. What other people lose counts against it only as far as the canary
shows it beyond chance. The untouched model is always a candidate. Test is never read here. Knows the adapter's contract
and no model.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from asr_lightning.adapters import saved
from asr_lightning.protocols import ASRAdapter
from asr_lightning.reports.statistics import bootstrap
from asr_lightning.run.ends import End, State
from asr_lightning.run.forgetting import Forgetting, Loss
from asr_lightning.run.line import Line, Walk, loaded, walk_to
from asr_lightning.scoring.comparison import pairs
from asr_lightning.scoring.edits import Transcript, score
from asr_lightning.scoring.evaluation import Evaluation, evaluate, pooled
from asr_lightning.scoring.text import Normalizer

logger = logging.getLogger(__name__)

UNREADABLE = 0.9
"""Dev WER above which no weights are handed over. Transcripts that belong to other clips lower a WER of over 100 %:
the model learns to write less, which is no gain."""

SLACK = 0.005
"""Rise of dev WER that does not end the walk: the lowest point may lie behind a word or two. A German voice, read by
whisper-base with 15.8 % at alpha 1, was read with 14.2 % at 0.5."""


@dataclass(frozen=True)
class SelectionSettings:
    """How weights are chosen when training is over.

    Attributes:
        average: How many of the best validations are averaged for one more candidate; 1 for none.
        alphas: Steps between the untouched model, 0, and the specialized one, 1, that are tried as well.
            Source: WiSE-FT, Wortsman et al. 2022.
        min_probability: Of being better than the untouched model on dev, by paired bootstrap; below it that is kept.
            0.975 is where the 95 % interval of the report ends.
        canary: Folder of general speech; ``bundled``, or ``off`` for none.
        canary_limit: Points of WER, absolute, that other people's speech may lose before the loss counts.
        canary_weight: What one point of loss beyond the limit weighs, in points of the speaker's dev WER. Only a loss
            that is shown counts: the lower end of the 95 % interval of the paired bootstrap over the canary. ``inf``
            refuses all weights with such a loss, 0 never takes a step back for other people.
    """

    average: int = 4
    alphas: tuple[float, ...] = (0.25, 0.5, 0.6, 0.75, 0.9)
    min_probability: float = 0.975
    canary: str = "bundled"
    canary_limit: float = 0.5
    canary_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.average < 1:
            raise ValueError(f"selection.average must be at least 1, not {self.average}")
        if not all(0 < alpha < 1 for alpha in self.alphas):
            raise ValueError(f"selection.alphas lie between 0 and 1, which are always tried; not {self.alphas}")
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"selection.min_probability is a share from 0 to 1, not {self.min_probability}")
        if self.canary_limit < 0 or not self.canary_weight >= 0:
            raise ValueError("selection.canary_limit and selection.canary_weight must not be negative")


@dataclass
class Candidate:
    """Weights that could be handed over.

    Attributes:
        name: In words.
        alpha: 0 is the untouched model, 1 the specialized one.
        wer: Corpus WER on dev.
        dev: What it wrote for dev.
        lost: On the canary; None where it was not read.
        note: Why it was left out.
        chosen: Whether it is handed over.
    """

    name: str
    alpha: float
    wer: float
    dev: Evaluation
    lost: Loss | None = None
    note: str = ""
    chosen: bool = False

    @property
    def order(self) -> tuple[float, float]:
        """On dev alone; the lower the better."""
        return self.wer, self.dev.loss

    @property
    def cost(self) -> tuple[float, float]:
        """With what other people lose; the lower the better."""
        return self.wer + (self.lost.penalty if self.lost else 0.0), self.dev.loss


@dataclass
class Selection:
    """Scores candidates on dev and on the canary, and keeps what it found.

    Attributes:
        device: Where to compute.
        normalize: Of every WER.
        settings: The rules.
        forgetting: What other people lose; None where no canary was given.
        base_dev: What the untouched model wrote for dev, natively.
        candidates: All that was scored, in order.
        parts: All weights at the chosen step, for each part of the end that was walked to.
    """

    device: torch.device | str
    normalize: Normalizer
    settings: SelectionSettings
    forgetting: Forgetting | None
    base_dev: Evaluation
    candidates: list[Candidate] = field(default_factory=list)
    parts: list[State] = field(default_factory=list)

    def run(self, live: ASRAdapter, source: ASRAdapter, ends: Sequence[End], target: Path) -> Candidate:
        """Choose, and write the chosen model to ``target``, which appears or changes as a whole.

        Args:
            live: The adapter that was trained.
            source: The untouched one, as the run started from.
            ends: What training has left.
            target: Folder of the model.
        """
        live.model.to(self.device)
        base = Candidate("untouched model", 0.0, self.wer(self.base_dev.transcripts), self.base_dev)
        self.candidates = [base]
        if not ends:
            base.note = "no validation was reached in time"
            return self._hand_over(base, source.native(), target)
        end = self._best_end(live, ends)
        walk = walk_to(end, live, source, target.parent)
        live.model.cpu()
        chosen = self._walk(base, end.name, walk)
        self.parts = walk.states(chosen.alpha)
        tuned = walk.average.at(chosen.alpha)
        if self.forgetting and chosen.lost:
            self.forgetting.spot_check(chosen.lost, tuned)
        return self._hand_over(chosen, tuned if chosen.alpha else walk.average.untouched.native(), target)

    def _best_end(self, live: ASRAdapter, ends: Sequence[End]) -> End:
        """The one with the lowest dev WER."""
        for end in ends:
            self._score(end.name, 1.0, ((loaded(live, part.load()), part.data) for part in end.parts))
        best, *others = sorted(self.candidates[1:], key=lambda candidate: candidate.order)
        for other in others:
            other.note = "has a higher dev WER than the other end"
        return next(end for end in ends if end.name == best.name)

    def _score(self, name: str, alpha: float, parts: Iterable[tuple[ASRAdapter, Any]]) -> Candidate:
        dev = pooled([self._read(adapter, data) for adapter, data in parts])
        found = Candidate(name, alpha, self.wer(dev.transcripts), dev)
        self.candidates.append(found)
        logger.info("candidate: %s, alpha %g: dev WER %.1f %%", name, alpha, 100 * found.wer)
        return found

    def _read(self, adapter: ASRAdapter, data: Any) -> Evaluation:
        adapter.model.to(self.device)
        return evaluate(adapter, data.loader("dev", adapter.collator(), distributed=False), self.device)

    def _walk(self, base: Candidate, name: str, walk: Walk) -> Candidate:
        """From the specialized weights back towards the untouched ones, no farther than needed.

        While dev WER falls, or rises by no more than ``SLACK``, the next step is scored. Once it rises, the canary is
        read for what has been found, and the walk ends as soon as no later step can win. Returns the candidate of the
        lowest cost.
        """
        chosen = base
        waiting = [next(candidate for candidate in self.candidates if candidate.name == name)]
        for alpha in sorted(self.settings.alphas, reverse=True):
            step = self._score(name, alpha, ((line.at(alpha), data) for line, data in walk.parts))
            rises = not waiting or step.wer > min(candidate.wer for candidate in waiting) + SLACK
            waiting.append(step)
            if rises:
                chosen, waiting = self._cheapest(chosen, waiting, base, walk.average), []
                if chosen is not base and step.wer >= chosen.cost[0]:
                    return chosen
        return self._cheapest(chosen, waiting, base, walk.average)

    def _cheapest(self, chosen: Candidate, waiting: list[Candidate], base: Candidate, line: Line) -> Candidate:
        """The candidate of the lowest cost among ``chosen`` and those in ``waiting`` that pass dev."""
        for candidate in sorted(waiting, key=lambda candidate: candidate.order):
            if chosen is not base and candidate.wer >= chosen.cost[0]:
                break  # the canary can only add to it
            if not self._passes_dev(base, candidate):
                continue
            if self.forgetting:
                most = chosen.cost[0] - candidate.wer
                candidate.lost = self.forgetting.loss(line.untouched, line.at(candidate.alpha), most)
                _log_loss(candidate)
            if candidate.cost < chosen.cost:
                chosen = candidate
            elif candidate.lost:
                candidate.note = f"what the canary loses, {candidate.lost.points}, outweighs the gain"
        return chosen

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

    def _hand_over(self, chosen: Candidate, adapter: ASRAdapter, target: Path) -> Candidate:
        chosen.chosen = True
        saved.replace(target, adapter.save)
        return chosen

    def wer(self, transcripts: Sequence[Transcript]) -> float:
        """Corpus WER, as a fraction."""
        return score(transcripts, self.normalize).wer


def _log_loss(candidate: Candidate) -> None:
    if candidate.lost:
        named = candidate.name, candidate.alpha, candidate.lost.points
        logger.info("candidate: %s, alpha %g: canary WER %s", *named)
