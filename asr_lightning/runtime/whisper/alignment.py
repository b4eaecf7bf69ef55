"""Times of words from the cross attentions of Whisper's alignment heads. Loads no torch.

Source: openai/whisper ``timing.py``, ``find_alignment`` and ``dtw``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from asr_lightning.runtime.contract import Word
from asr_lightning.runtime.whisper.tokens import WhisperTokens

SECONDS = 0.02
"""Length of a position of the encoder."""
MEDIAN_WIDTH = 7

Floats = NDArray[np.floating]


def starts(scores: Floats) -> list[float]:
    """Return when each token starts, in seconds, and last when the text ends.

    Args:
        scores: Scores before softmax of the alignment heads, ``[H, U, T]``. Row u is what the model looks at to write
            token u; the last row stands for the end. T is the number of positions with audio.
    """
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    normed = (weights - weights.mean(axis=1, keepdims=True)) / (weights.std(axis=1, keepdims=True) + 1e-9)
    return [SECONDS * place for place in path_starts(-_median(normed).mean(axis=0))]


def _median(values: Floats) -> Floats:
    """Median of ``MEDIAN_WIDTH`` neighbours along the last axis, mirrored at the ends."""
    reach = min(MEDIAN_WIDTH // 2, values.shape[-1] - 1)
    padded = np.pad(values, ((0, 0), (0, 0), (reach, reach)), mode="reflect")
    median: Floats = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=-1), axis=-1)
    return median


def path_starts(costs: Floats) -> list[int]:
    """Return the column at which the cheapest path through ``costs`` ``[U, T]`` enters each row.

    The path goes from the first corner to the last by steps to the next row, the next column or both (dynamic time
    warping). Within a row it is a sum, so that a row is computed at once: the cost up to column j is the sum up to j
    plus the least of (cost of entering at k, less the sum before k) over k up to j.
    """
    ends: list[Floats] = []
    entries: list[Floats] = []
    for row in costs.astype(np.float64):
        sums = np.cumsum(row)
        if ends:
            above = ends[-1]
            entry = np.minimum(above, np.concatenate([[np.inf], above[:-1]])) - (sums - row)
        else:
            entry = np.concatenate([[0.0], np.full(len(row) - 1, np.inf)])
        entries.append(entry)
        ends.append(sums + np.minimum.accumulate(entry))
    places, column = [0] * len(entries), costs.shape[1] - 1
    for row in range(len(entries) - 1, 0, -1):
        place = int(entries[row][: column + 1].argmin())
        places[row] = place
        is_diagonal = place > 0 and ends[row - 1][place - 1] <= ends[row - 1][place]
        column = place - 1 if is_diagonal else place
    return places


def words(tokens: WhisperTokens, text: Sequence[int], log_probs: Sequence[float], times: Sequence[float]) -> list[Word]:
    """Return the words of ``text`` with their times and confidence.

    Args:
        tokens: Divides tokens into words.
        text: Tokens, none special.
        log_probs: Logarithm of the probability of each.
        times: When each starts, in seconds, and last when the text ends.
    """
    result, first = [], 0
    for piece, count in tokens.words(text):
        end = first + count
        confidence = float(np.exp(np.mean(log_probs[first:end]))) if count else None
        if piece:
            result.append(Word(piece, round(times[first], 3), round(times[end], 3), confidence))
        first = end
    return result
