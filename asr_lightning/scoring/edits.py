"""Edit counts between reference and hypothesis, and the rates made of them. No torch, no model, no file.

Everything that prints a WER goes through here: the training loop's metric and the before/after report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import jiwer

from asr_lightning.scoring.text import Normalizer

KEPT = 1 << 14
"""Pairs of texts whose alignment is kept: more than a run of 300 clips and a canary compares, about 20 MB."""


class EditCounts(NamedTuple):
    """Substitutions, deletions, insertions and reference length, in words or in characters."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    @property
    def errors(self) -> int:
        """All edits together."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors over reference length; with an empty reference the number of insertions, as jiwer 4 does."""
        return self.errors / max(self.reference, 1)


class UtteranceCounts(NamedTuple):
    """The edit counts of one utterance."""

    words: EditCounts
    characters: EditCounts


class Transcript(NamedTuple):
    """What a model wrote for one utterance, beside what was said. Both texts are raw."""

    uid: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class ErrorRates:
    """Rates of a set of utterances, as fractions.

    Attributes:
        wer: Corpus word error rate: all word errors over all reference words.
        cer: Corpus character error rate.
        mean_wer: Mean over utterances of WER capped at 1. The seed project's figure; not comparable with ``wer``.
        words: Summed word edit counts.
    """

    wer: float
    cer: float
    mean_wer: float
    words: EditCounts


def count_edits(reference: str, hypothesis: str, normalize: Normalizer) -> UtteranceCounts:
    """Edit counts of one utterance after ``normalize`` has been applied to both texts."""
    reference, hypothesis = normalize(reference), normalize(hypothesis)
    return UtteranceCounts(_counts(aligned_words(reference, hypothesis)), _character_counts(reference, hypothesis))


@lru_cache(KEPT)
def aligned_words(reference: str, hypothesis: str) -> jiwer.WordOutput:
    """jiwer's alignment of two normalised texts. A run asks for the same one in validation, selection and report."""
    return jiwer.process_words([reference], [hypothesis])


@lru_cache(KEPT)
def _character_counts(reference: str, hypothesis: str) -> EditCounts:
    return _counts(jiwer.process_characters([reference], [hypothesis]))


def _counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> EditCounts:
    kept = output.hits + output.substitutions + output.deletions
    return EditCounts(output.substitutions, output.deletions, output.insertions, kept)


def total(counts: Iterable[EditCounts]) -> EditCounts:
    """The sum, field by field."""
    return EditCounts(*(sum(column) for column in zip(*counts, strict=True)))


def error_rates(utterances: Sequence[UtteranceCounts]) -> ErrorRates:
    """Rates over ``utterances``.

    Raises:
        ValueError: There are none, so no rate is defined.
    """
    if not utterances:
        raise ValueError("no utterance to score: the split is empty")
    words = total(counts.words for counts in utterances)
    capped = [min(counts.words.rate, 1.0) for counts in utterances]
    characters = total(counts.characters for counts in utterances)
    return ErrorRates(words.rate, characters.rate, sum(capped) / len(capped), words)


def score(transcripts: Iterable[Transcript], normalize: Normalizer) -> ErrorRates:
    """Rates of ``transcripts`` under ``normalize``."""
    return error_rates([count_edits(t.reference, t.hypothesis, normalize) for t in transcripts])
