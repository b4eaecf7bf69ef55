"""Chooses the weights of a run: those of a validation, an average, an interpolation or the untouched model.

The speaker comes first: the lowest dev WER wins. A loss of other people counts only as far as it is significant on the
canary. The untouched model is always a candidate. The test clips are never read here. Knows the adapter contract and no
model.
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
from asr_lightning.reports.statistics import bootstrap, different_texts, most_certain
from asr_lightning.run.ends import End, State
from asr_lightning.run.folder import set_aside_results
from asr_lightning.run.forgetting import Forgetting, Loss
from asr_lightning.run.interpolation import Interpolation, Walk, loaded, walk_to
from asr_lightning.scoring.comparison import pairs
from asr_lightning.scoring.edits import Transcript, score
from asr_lightning.scoring.evaluation import Evaluation, evaluate, pooled
from asr_lightning.scoring.text import Normalizer

logger = logging.getLogger(__name__)

UNREADABLE = 0.9
"""Weights with a higher dev WER are never handed over. If the transcripts belong to other clips, training can lower a
WER of more than 100 % by teaching the model to write less, which is no gain."""

SLACK = 0.005
"""A rise of dev WER by no more than this does not end the walk: a lower point may follow after a rise by a word or two.
whisper-base read a Dutch voice with 15.8 % dev WER at alpha 1, and with 14.2 % at alpha 0.5."""


@dataclass(frozen=True)
class SelectionSettings:
    """How weights are chosen when training is over.

    Attributes:
        average: Number of the best validations whose weights are averaged into one more candidate; 1 for no average.
        alphas: Further candidates between the untouched model, at 0, and the specialized one, at 1.
            Source: WiSE-FT, Wortsman et al. 2022.
        min_probability: Required probability, by paired bootstrap, of being better than the untouched model on dev.
            Otherwise the untouched model is kept. 0.975 corresponds to the 95 % interval of the report.
        canary: Folder with speech of other people; ``bundled``, or ``off`` for none.
        canary_limit: Percentage points of WER that other people's speech may lose before the loss counts.
        canary_weight: Weight of one point of loss beyond the limit, in points of the speaker's dev WER. Only a
            significant loss counts: the lower end of the 95 % interval of the paired bootstrap over the canary.
            ``.inf`` refuses all weights with such a loss; with 0, other people's speech has no influence.
    """

    average: int = 4
    alphas: tuple[float, ...] = (0.25, 0.5, 0.6, 0.75, 0.9)
    min_probability: float = 0.975
    canary: str = "bundled"
    canary_limit: float = 0.5
    canary_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.average < 1:
            raise ValueError(f"--selection.average must be at least 1, not {self.average}")
        if not all(0 < alpha < 1 for alpha in self.alphas):
            raise ValueError(f"--selection.alphas lie between 0 and 1, which are always tried; not {self.alphas}")
        if not 0 <= self.min_probability <= 1:
            raise ValueError(f"--selection.min_probability is a share from 0 to 1, not {self.min_probability}")
        if self.canary_limit < 0 or not self.canary_weight >= 0:
            raise ValueError("--selection.canary_limit and canary_weight must not be negative")


@dataclass
class Candidate:
    """Weights that could be handed over.

    Attributes:
        name: Name for reports, such as ``average of 4 folds``.
        alpha: Position between the untouched model, at 0, and the specialized one, at 1.
        wer: Corpus WER on dev, as a fraction.
        dev: Transcripts and loss on dev.
        lost: Loss on the canary; None if the canary was not read.
        p_better: Probability of being better than the untouched model on dev; None if it was not computed.
        note: Why the candidate was left out; empty if it was not.
        chosen: Whether it is handed over.
    """

    name: str
    alpha: float
    wer: float
    dev: Evaluation
    lost: Loss | None = None
    p_better: float | None = None
    note: str = ""
    chosen: bool = False

    @property
    def order(self) -> tuple[float, float]:
        """Sort key by dev alone; the lower the better."""
        return self.wer, self.dev.loss

    @property
    def cost(self) -> tuple[float, float]:
        """Sort key by dev and by what other people lose; the lower the better."""
        return self.wer + (self.lost.penalty if self.lost else 0.0), self.dev.loss


@dataclass
class Selection:
    """Scores candidates on dev and on the canary, and records them.

    Attributes:
        device: Device that the models run on.
        normalize: Text normaliser of every WER.
        settings: The rules.
        forgetting: Measures what other people lose; None without a canary.
        base_dev: Transcripts and loss of the untouched model on dev, in its native mode.
        candidates: All candidates that were scored, in order.
        parts: The complete weights of each part of the chosen end, at the chosen alpha.
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
            source: The adapter of the untouched model.
            ends: The specialized weights that training has left.
            target: Folder of the model that is handed over.
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
        """The end with the lowest dev WER."""
        for end in ends:
            self._score(end.name, 1.0, ((loaded(live, part.load()), part.data) for part in end.parts))
        best, *others = sorted(self.candidates[1:], key=lambda candidate: candidate.order)
        for other in others:
            other.note = "has a higher dev WER than the other end"
        return next(end for end in ends if end.name == best.name)

    def _score(self, name: str, alpha: float, parts: Iterable[tuple[ASRAdapter, Any]]) -> Candidate:
        dev = pooled([self._read(adapter, data) for adapter, data in parts])
        candidate = Candidate(name, alpha, self.wer(dev.transcripts), dev)
        self.candidates.append(candidate)
        logger.info("candidate: %s, alpha %g: dev WER %.1f %%", name, alpha, 100 * candidate.wer)
        return candidate

    def _read(self, adapter: ASRAdapter, data: Any) -> Evaluation:
        adapter.model.to(self.device)
        return evaluate(adapter, data.loader("dev", adapter.collator(), distributed=False), self.device)

    def _walk(self, base: Candidate, name: str, walk: Walk) -> Candidate:
        """Score weights from the specialized ones back towards the untouched ones, no farther than needed.

        The next alpha is scored while dev WER falls, or rises by no more than ``SLACK``. After a larger rise, the
        canary is read with the candidates so far, and the walk ends as soon as no later one can win. Returns the
        candidate of the lowest cost.
        """
        chosen = base
        waiting = [next(candidate for candidate in self.candidates if candidate.name == name)]
        for alpha in sorted(self.settings.alphas, reverse=True):
            step = self._score(name, alpha, ((path.at(alpha), data) for path, data in walk.parts))
            rises = not waiting or step.wer > min(candidate.wer for candidate in waiting) + SLACK
            waiting.append(step)
            if rises:
                chosen, waiting = self._cheapest(chosen, waiting, base, walk.average), []
                if chosen is not base and step.wer >= chosen.cost[0]:
                    return chosen
        return self._cheapest(chosen, waiting, base, walk.average)

    def _cheapest(
        self, chosen: Candidate, waiting: list[Candidate], base: Candidate, average: Interpolation
    ) -> Candidate:
        """The candidate of the lowest cost among ``chosen`` and those in ``waiting`` that pass dev."""
        for candidate in sorted(waiting, key=lambda candidate: candidate.order):
            if chosen is not base and candidate.wer >= chosen.cost[0]:
                break  # the canary can only add to it
            if not self._passes_dev(base, candidate):
                continue
            if self.forgetting:
                most = chosen.cost[0] - candidate.wer
                candidate.lost = self.forgetting.loss(average.untouched, average.at(candidate.alpha), most)
                _log_loss(candidate)
            chosen, other = (candidate, chosen) if candidate.cost < chosen.cost else (chosen, candidate)
            if other.lost:
                other.note = f"costs other people more than it gains: {other.lost.points} on the canary"
        return chosen

    def _passes_dev(self, base: Candidate, candidate: Candidate) -> bool:
        if candidate.wer > UNREADABLE:
            candidate.note = f"gets more than {UNREADABLE:.0%} of the words wrong: check the transcripts"
            return False
        change = bootstrap(pairs(base.dev.transcripts, candidate.dev.transcripts), self.normalize)
        better, least = min(change.p_better, most_certain(change.groups)), self.settings.min_probability
        candidate.p_better = better
        if better >= least:
            return True
        candidate.note = f"is better than it with a probability of {better:.2f}, less than {least:g}"
        if most_certain(change.groups) < least:
            candidate.note = f"cannot be shown to be better on {different_texts(change.groups)} of dev"
        return False

    def _hand_over(self, chosen: Candidate, adapter: ASRAdapter, target: Path) -> Candidate:
        chosen.chosen = True
        set_aside_results(target.parent)  # of a finished run whose weights are chosen again
        saved.replace(target, adapter.save)
        return chosen

    def wer(self, transcripts: Sequence[Transcript]) -> float:
        """Corpus WER, as a fraction."""
        return score(transcripts, self.normalize).wer


def _log_loss(candidate: Candidate) -> None:
    if candidate.lost:
        named = candidate.name, candidate.alpha, candidate.lost.points
        logger.info("candidate: %s, alpha %g: canary WER %s", *named)
