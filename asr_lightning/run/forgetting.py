"""How much worse the speech of other people is read after specializing, measured on the canary. Knows no model.

A loss counts only as far as it is significant, that is by the lower end of the 95 % interval of the paired bootstrap
over the clips of the canary: a few more wrong words in 200 clips are chance.
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

MAX_UNTOUCHED_WER = 0.5
"""An untouched model with a higher WER on the canary does not know its language; the canary is then not used."""

SUFFICIENT_CLIPS = 200
"""With this many clips, a loss of one or two points is significant."""

BOUND_EVERY = 32
"""Number of clips between two computations of the bound on the loss; each takes a tenth of a second."""

AS_TRAINED, NATIVE = "as trained", "native"


@dataclass(frozen=True)
class Loss:
    """The loss of a candidate's weights on the canary.

    Attributes:
        transcripts: The candidate's transcripts, by mode.
        change: Change of the WER from the untouched model in its native mode to the candidate in the mode in which it
            would be used.
        penalty: The significant part of the loss beyond the limit, as a fraction, times its weight.
        complete: Whether the whole canary was read. If not, the loss is a lower bound, in which all clips that were
            not read count as free of errors.
    """

    transcripts: dict[str, tuple[Transcript, ...]]
    change: Bootstrap
    penalty: float
    complete: bool = True

    @property
    def points(self) -> str:
        """The change in percentage points with its interval, for messages."""
        return self.change.points if self.complete else f"at least {self.change.points}"


@dataclass
class Forgetting:
    """Reads the canary once with the untouched model, and then with candidates.

    Attributes:
        canary: Clips of other people's speech.
        device: Device that the models run on.
        normalize: Text normaliser of every WER.
        limit: Percentage points of WER that may be lost before the loss counts.
        weight: Penalty of a significant point beyond the limit.
        before: Transcripts of the untouched model in its native mode; empty until the canary is first read.
        note: Why the canary is not used; empty if it is.
    """

    canary: Canary
    device: torch.device | str
    normalize: Normalizer
    limit: float
    weight: float
    before: tuple[Transcript, ...] = field(default=(), init=False)
    note: str = field(default="", init=False)

    def loss(self, untouched: ASRAdapter, tuned: ASRAdapter, most: float = float("inf")) -> Loss | None:
        """The loss of ``tuned`` against ``untouched``; None if the canary is not used.

        Reading stops as soon as the penalty is certain to exceed ``most``: weights that loop on every clip take minutes
        to read, and would be rejected anyway.
        """
        if not self.before and not self.note:
            self._read_before(untouched)
        if self.note:
            return None
        mode = NATIVE if tuned.native() is tuned else AS_TRAINED
        logger.info("canary: a candidate reads %d clips of other people", len(self.before))
        unread = {t.uid: t._replace(hypothesis=t.reference) for t in self.before}
        after: dict[str, Transcript] = {}
        with closing(self.canary.read(tuned, self.device, drafts=self.before)) as reading:
            for transcript in reading:
                after[transcript.uid] = transcript
                if len(after) % BOUND_EVERY == 0 and len(after) < len(unread):
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
        """Add transcripts of some clips in the native mode of ``tuned``, the only mode that some runtimes have."""
        native = tuned.native()
        if native is not tuned:
            loss.transcripts[NATIVE] = self.canary.transcripts(native, self.device, SPOT_CHECK, drafts=self.before)

    def _read_before(self, untouched: ASRAdapter) -> None:
        logger.info("canary: the untouched model reads %d clips of other people", len(self.canary.references))
        self.before = self.canary.untouched(untouched.native(), self.device)
        wer = score(self.before, self.normalize).wer
        if not self.before:
            self.note = "Not used: the model takes none of its clips."
        elif wer > MAX_UNTOUCHED_WER:
            self.before, self.note = (), f"Not used: the untouched model reads {wer:.0%} of it wrong."
        elif (count := len(self.before)) < SUFFICIENT_CLIPS:
            logger.info("canary: %d clips show large losses only; %d or more show a point", count, SUFFICIENT_CLIPS)
        if self.note:
            logger.info("canary: %s", self.note)
