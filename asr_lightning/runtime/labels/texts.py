"""What a model that writes one label at a time, CTC or transducer, says as text and words. Knows no runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr_lightning.errors import ModelError
from asr_lightning.runtime.contract import Hypothesis, Word

SPACE = "▁"
"""Stands for the space before a word, as in SentencePiece."""
BLANK = "<blk>"
"""The label that writes nothing, by the name that sherpa-onnx and onnx-asr look for."""


class Label(NamedTuple):
    """A label that was written, with its frames and its probability."""

    number: int
    first: int
    last: int
    probability: float


def read_tokens(path: Path) -> tuple[str, ...]:
    """Return the labels that ``path`` lists, one a line with its number after a blank.

    Raises:
        ModelError: There is no such file, or its numbers are not 0, 1, 2, …
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing: copy the whole folder again")
    try:
        rows = [line.rsplit(" ", 1) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is no text ({error}): copy it again, or export the model again") from error
    if [row[-1] for row in rows] != [str(number) for number in range(len(rows))] or not rows:
        raise ModelError(f"{path} does not list the labels in their order: copy it again, or export the model again")
    return tuple(row[0] for row in rows)


def write_tokens(path: Path, tokens: Sequence[str]) -> None:
    """Write ``tokens`` as ``read_tokens`` reads them."""
    path.write_text("".join(f"{token} {number}\n" for number, token in enumerate(tokens)), encoding="utf-8")


def text_of(labels: Sequence[str]) -> str:
    """Return the text of ``labels``, stripped."""
    return "".join(labels).replace(SPACE, " ").strip()


def ctc_labels(log_probs: NDArray[np.float32], blank: int) -> list[Label]:
    """Return the best labels of ``log_probs`` ``[F, V]``, with repeats merged and blanks dropped."""
    best = log_probs.argmax(-1)
    starts = np.flatnonzero(np.diff(best, prepend=-1))
    ends = np.append(starts[1:], len(best))
    return [
        Label(int(best[first]), int(first), int(end) - 1, math.exp(float(log_probs[first:end, best[first]].max())))
        for first, end in zip(starts, ends, strict=True)
        if best[first] != blank
    ]


def hypothesis_of(labels: Sequence[Label], tokens: Sequence[str], frame_seconds: float, words: bool) -> Hypothesis:
    """Return what ``labels`` say; a word lasts from its first label's first frame to its last label's last one.

    Args:
        labels: The labels of one clip.
        tokens: How each label is written.
        frame_seconds: Distance of the frames in seconds.
        words: Whether words with their times are wanted.
    """
    spoken = _words(labels, tokens, frame_seconds) if words else ()
    confidence = mean_probability([label.probability for label in labels])
    return Hypothesis(text_of([tokens[label.number] for label in labels]), spoken, confidence)


def mean_probability(probabilities: Sequence[float]) -> float | None:
    """Return the geometric mean of ``probabilities``, which are at most 1; None if there are none."""
    if not probabilities:
        return None
    return math.exp(sum(math.log(max(p, 1e-12)) for p in probabilities) / len(probabilities))


def _words(labels: Sequence[Label], tokens: Sequence[str], frame_seconds: float) -> tuple[Word, ...]:
    runs: list[list[Label]] = [[]]
    for label in labels:
        if tokens[label.number].startswith(SPACE) and runs[-1]:
            runs.append([])
        if tokens[label.number] != SPACE:
            runs[-1].append(label)
    return tuple(
        Word(
            text_of([tokens[label.number] for label in run]),
            run[0].first * frame_seconds,
            (run[-1].last + 1) * frame_seconds,
            mean_probability([label.probability for label in run]),
        )
        for run in runs
        if run
    )
