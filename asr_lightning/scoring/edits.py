"""Counts edits between reference and hypothesis, and computes error rates. Knows no torch, no model and no file.

Every WER is computed here: that of the training loop as well as those of the report.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import jiwer

from asr_lightning.scoring.text import Normalizer

NUM_CACHED = 1 << 14
"""Number of cached alignments, about 20 MB: more than a run with 300 clips and a canary computes."""


class EditCounts(NamedTuple):
    """Numbers of substitutions, deletions and insertions, and the reference length, in words or in characters."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference: int = 0

    @property
    def errors(self) -> int:
        """Number of all edits."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors divided by the reference length; with an empty reference the number of insertions, as in jiwer 4."""
        return self.errors / max(self.reference, 1)


class UtteranceCounts(NamedTuple):
    """The edit counts of one utterance."""

    words: EditCounts
    characters: EditCounts


class Transcript(NamedTuple):
    """What was said in one utterance, and what a model wrote. Neither text is normalised."""

    uid: str
    reference: str
    hypothesis: str


@dataclass(frozen=True)
class ErrorRates:
    """Error rates of a set of utterances, as fractions.

    Attributes:
        wer: Corpus word error rate: all word errors over all reference words.
        cer: Corpus character error rate.
        mean_wer: Mean over utterances of the WER capped at 1. The predecessor of this project reported it; it cannot be
            compared with ``wer``.
        words: Word edit counts of all utterances together.
    """

    wer: float
    cer: float
    mean_wer: float
    words: EditCounts


def count_edits(reference: str, hypothesis: str, normalize: Normalizer) -> UtteranceCounts:
    """Edit counts of one utterance after ``normalize`` has been applied to both texts."""
    reference, hypothesis = normalize(reference), normalize(hypothesis)
    return UtteranceCounts(_counts(aligned_words(reference, hypothesis)), _character_counts(reference, hypothesis))


@lru_cache(NUM_CACHED)
def aligned_words(reference: str, hypothesis: str) -> jiwer.WordOutput:
    """jiwer's alignment of two normalised texts; cached, since validation, selection and report need the same ones."""
    return jiwer.process_words([reference], [hypothesis])


@lru_cache(NUM_CACHED)
def _character_counts(reference: str, hypothesis: str) -> EditCounts:
    return _counts(jiwer.process_characters([reference], [hypothesis]))


def _counts(output: jiwer.WordOutput | jiwer.CharacterOutput) -> EditCounts:
    reference_length = output.hits + output.substitutions + output.deletions
    return EditCounts(output.substitutions, output.deletions, output.insertions, reference_length)


def total(counts: Iterable[EditCounts]) -> EditCounts:
    """Add up each field of ``counts``."""
    return EditCounts(*(sum(column) for column in zip(*counts, strict=True)))


def error_rates(utterances: Sequence[UtteranceCounts]) -> ErrorRates:
    """Error rates over ``utterances``.

    Raises:
        ValueError: ``utterances`` is empty, so no rate is defined.
    """
    if not utterances:
        raise ValueError("no utterance to score: the split is empty")
    words = total(counts.words for counts in utterances)
    capped = [min(counts.words.rate, 1.0) for counts in utterances]
    characters = total(counts.characters for counts in utterances)
    return ErrorRates(words.rate, characters.rate, sum(capped) / len(capped), words)


def score(transcripts: Iterable[Transcript], normalize: Normalizer) -> ErrorRates:
    """Error rates of ``transcripts`` after both texts of each have been normalised."""
    return error_rates([count_edits(t.reference, t.hypothesis, normalize) for t in transcripts])
