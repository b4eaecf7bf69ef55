"""Transcripts and error rates of a set of clips before and after training. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypedDict


class Pair(NamedTuple):
    """What was said in one utterance, and what the model wrote before and after training. No text is normalised."""

    uid: str
    reference: str
    before: str
    after: str


class Change(NamedTuple):
    """An error rate before and after training, as fractions."""

    before: float
    after: float

    @property
    def cut(self) -> float:
        """Share of the errors that training has removed; 0 if there were none before."""
        return 1 - self.after / self.before if self.before else 0.0


class RatesSection(TypedDict):
    """The part of a section of ``report.json`` that holds rates by name, such as ``wer``."""

    before: Mapping[str, float]
    after: Mapping[str, float]


@dataclass(frozen=True)
class Rates:
    """Error rates of one set of clips before and after training.

    Attributes:
        wer: Corpus WER.
        cer: Corpus CER.
        mean_wer: Mean over clips of the WER capped at 1.
    """

    wer: Change
    cer: Change
    mean_wer: Change

    @classmethod
    def from_report(cls, section: RatesSection) -> Rates:
        """Read the rates from a section of ``report.json``."""
        before, after = section["before"], section["after"]
        return cls(*(Change(before[name], after[name]) for name in ("wer", "cer", "mean_wer")))

    def as_dict(self) -> dict[str, dict[str, float]]:
        """The rates as JSON has them, by name."""
        return {name: change._asdict() for name, change in vars(self).items()}
