"""Which words went wrong: coloured differences, confusions and the words with most errors. Knows no model and no file.

Word alignments are jiwer's, as in ``scoring``, so that the errors listed here add up to those of the WER.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

from asr_lightning.scoring.edits import aligned_words
from asr_lightning.scoring.rates import Pair
from asr_lightning.scoring.text import Normalizer

Kind = Literal["equal", "substitution", "deletion", "insertion"]
Piece = tuple[Kind, str]

KINDS: dict[str, Kind] = {
    "equal": "equal",
    "substitute": "substitution",
    "delete": "deletion",
    "insert": "insertion",
}


class Edit(NamedTuple):
    """One aligned word; ``reference`` is empty for an insertion, ``hypothesis`` for a deletion."""

    kind: Kind
    reference: str
    hypothesis: str


class Confusion(NamedTuple):
    """An error and how often it happened before and after."""

    kind: Kind
    reference: str
    hypothesis: str
    before: int
    after: int


class WordErrors(NamedTuple):
    """A reference word: how often it was said, and how often it was missed or replaced, before and after."""

    word: str
    said: int
    before: int
    after: int


def edits(reference: str, hypothesis: str) -> Iterator[Edit]:
    """Every aligned word of two normalised texts, in order."""
    output = aligned_words(reference, hypothesis)
    said, written = output.references[0], output.hypotheses[0]
    for chunk in output.alignments[0]:
        left = said[chunk.ref_start_idx : chunk.ref_end_idx]
        right = written[chunk.hyp_start_idx : chunk.hyp_end_idx]
        size = max(len(left), len(right))
        for one, other in zip(left or [""] * size, right or [""] * size, strict=True):
            yield Edit(KINDS[chunk.type], one, other)


def difference(reference: str, hypothesis: str) -> list[Piece]:
    """``hypothesis`` in pieces to be marked, with deleted reference words where they are missing.

    Both texts are normalised already. Neighbours of one kind are one piece; a substitution shows what was written.
    """
    pieces: list[Piece] = []
    for edit in edits(reference, hypothesis):
        word = edit.reference if edit.kind == "deletion" else edit.hypothesis
        if pieces and pieces[-1][0] == edit.kind:
            pieces[-1] = (edit.kind, f"{pieces[-1][1]} {word}")
        else:
            pieces.append((edit.kind, word))
    return pieces


def confusions(pairs: Sequence[Pair], normalize: Normalizer) -> list[Confusion]:
    """Every error, the most frequent after first, then the most frequent before."""
    before, after = (_errors(pairs, side, normalize) for side in ("before", "after"))
    errors = [Confusion(*edit, before[edit], after[edit]) for edit in before | after]
    return sorted(errors, key=lambda item: (-item.after, -item.before, item.kind, item.reference, item.hypothesis))


def worst_words(pairs: Sequence[Pair], normalize: Normalizer) -> list[WordErrors]:
    """Every reference word with an error, most errors after first; an insertion belongs to no reference word."""
    said = Counter(word for pair in pairs for word in normalize(pair.reference).split())
    before, after = (_missed(_errors(pairs, side, normalize)) for side in ("before", "after"))
    counted = [WordErrors(word, count, before[word], after[word]) for word, count in said.items()]
    wrong = [item for item in counted if item.before or item.after]
    return sorted(wrong, key=lambda item: (-item.after, -item.before, item.word))


def _errors(pairs: Iterable[Pair], side: str, normalize: Normalizer) -> Counter[Edit]:
    aligned = (edit for pair in pairs for edit in edits(normalize(pair.reference), normalize(getattr(pair, side))))
    return Counter(edit for edit in aligned if edit.kind != "equal")


def _missed(errors: Counter[Edit]) -> Counter[str]:
    missed: Counter[str] = Counter()
    for edit, count in errors.items():
        if edit.reference:
            missed[edit.reference] += count
    return missed
