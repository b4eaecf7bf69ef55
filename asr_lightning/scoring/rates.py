"""Texts and error rates of a set of clips, before and after. Loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """What was said in one utterance, and what the model wrote before and after. All texts are raw."""

    uid: str
    reference: str
    before: str
    after: str


class Change(NamedTuple):
    """An error rate before and after, as fractions."""

    before: float
    after: float

    @property
    def cut(self) -> float:
        """Share of the errors that is gone; 0 where there were none."""
        return 1 - self.after / self.before if self.before else 0.0


@dataclass(frozen=True)
class Rates:
    """Error rates of one set of clips.

    Attributes:
        wer: Corpus WER.
        cer: Corpus CER.
        mean_wer: Mean of the WER of each clip.
    """

    wer: Change
    cer: Change
    mean_wer: Change

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> Rates:
        """Those of a section of ``report.json``."""
        before, after = section["before"], section["after"]
        return cls(*(Change(before[name], after[name]) for name in ("wer", "cer", "mean_wer")))

    def as_dict(self) -> dict[str, dict[str, float]]:
        """For JSON."""
        return {name: change._asdict() for name, change in vars(self).items()}
