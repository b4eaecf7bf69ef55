"""What other people lose when a model is specialized to one: the canary, read before and after. Knows no model.

A loss counts only as far as it is shown: by the lower end of the 95 % interval of the paired bootstrap over the clips
of the canary. A few words more or fewer on 200 clips show nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace

import torch

from asr_lightning.datamodules.canary import SPOT_CHECK, Canary
from asr_lightning.protocols import ASRAdapter
from asr_lightning.reports.statistics import Bootstrap, bootstrap
from asr_lightning.scoring.comparison import pairs
from asr_lightning.scoring.edits import Transcript, score
from asr_lightning.scoring.text import Normalizer

logger = logging.getLogger(__name__)

DEAF = 0.5
"""Canary WER of an untouched model above which the canary is not in its language, and has no say."""

ENOUGH = 200
"""Clips from which a loss of a point or two can be shown."""

LOOK_EVERY = 32
"""Clips between two looks at what is lost so far; one look takes a tenth of a second."""

AS_TRAINED, NATIVE = "as trained", "native"


@dataclass(frozen=True)
class Loss:
    """What a candidate's weights lose on the canary.

    Attributes:
        transcripts: What it wrote, by mode.
        change: Of the WER, read as the model is used, against the untouched model in its native mode.
        penalty: The shown part of the loss beyond the limit, as a fraction, times its weight.
        complete: Whether the whole canary was read. Otherwise the loss is at least this large: all clips that were
            not read count as free of errors.
    """

    transcripts: dict[str, tuple[Transcript, ...]]
    change: Bootstrap
    penalty: float
    complete: bool = True

    @property
    def points(self) -> str:
        """The change in words."""
        return self.change.points if self.complete else f"at least {self.change.points}"


@dataclass
class Forgetting:
    """Reads the canary with the untouched model once, and with candidates.

    Attributes:
        canary: General speech.
        device: Where to compute.
        normalize: Of every WER.
        limit: Points of WER that may be lost before the loss counts.
        weight: Of a shown point beyond the limit.
        before: What the untouched model wrote, natively; empty before it was asked.
        note: Why the canary has no say; empty if it has one.
    """

    canary: Canary
    device: torch.device | str
    normalize: Normalizer
    limit: float
    weight: float
    before: tuple[Transcript, ...] = field(default=(), init=False)
    note: str = field(default="", init=False)

    def loss(self, untouched: ASRAdapter, tuned: ASRAdapter, most: float = float("inf")) -> Loss | None:
        """What ``tuned`` loses against ``untouched``; None where the canary has no say.

        Reading stops as soon as the penalty is sure to be above ``most``. Weights that were trained for a few steps
        only can repeat themselves on every clip, which takes minutes to read and says no more.
        """
        if not self.before and not self.note:
            self._read_before(untouched)
        if self.note:
            return None
        mode = NATIVE if tuned.native() is tuned else AS_TRAINED
        unread = {t.uid: t._replace(hypothesis=t.reference) for t in self.before}
        after: dict[str, Transcript] = {}
        with closing(self.canary.read(tuned, self.device, drafts=self.before)) as reading:
            for transcript in reading:
                after[transcript.uid] = transcript
                if len(after) % LOOK_EVERY == 0 and len(after) < len(unread):
                    at_least = self._loss(mode, unread | after)
                    if at_least.penalty > most:
                        return replace(at_least, transcripts={mode: tuple(after.values())}, complete=False)
        return self._loss(mode, unread | after)

    def _loss(self, mode: str, after: Mapping[str, Transcript]) -> Loss:
        transcripts = tuple(after.values())
        change = bootstrap(pairs(self.before, transcripts), self.normalize)
        shown = max(0.0, change.low - self.limit / 100)
        return Loss({mode: transcripts}, change, shown * self.weight if shown else 0.0)

    def spot_check(self, loss: Loss, tuned: ASRAdapter) -> None:
        """Add what ``tuned`` writes for some clips in its native mode, the only one that some runtimes know."""
        native = tuned.native()
        if native is not tuned:
            loss.transcripts[NATIVE] = self.canary.transcripts(native, self.device, SPOT_CHECK, drafts=self.before)

    def _read_before(self, untouched: ASRAdapter) -> None:
        self.before = self.canary.untouched(untouched.native(), self.device)
        wer = score(self.before, self.normalize).wer
        if not self.before:
            self.note = "Not used: the model takes none of its clips."
        elif wer > DEAF:
            self.before, self.note = (), f"Not used: the untouched model reads {wer:.0%} of it wrong."
        elif len(self.before) < ENOUGH:
            logger.info(
                "canary: %d clips, which show large losses only; %d or more show a point", len(self.before), ENOUGH
            )
        if self.note:
            logger.info("canary: %s", self.note)
