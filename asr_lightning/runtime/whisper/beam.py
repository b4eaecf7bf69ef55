"""Beam search over a decoder that is called step by step; with one hypothesis it is greedy. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Logits = NDArray[np.float32]
Step = Callable[[NDArray[np.int64], NDArray[np.int64]], Logits]
"""Takes the last token of each row ``[B]`` and the earlier row that each one continues ``[B]``; returns ``[B, V]``."""


@dataclass(frozen=True)
class Written:
    """A text, or the start of one.

    Attributes:
        tokens: Its tokens, without the end token.
        log_probs: Logarithm of the probability of each token, and last of the end token if the text has one.
    """

    tokens: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()

    @property
    def score(self) -> float:
        """Mean of ``log_probs``, by which texts of different length are compared."""
        return sum(self.log_probs) / max(len(self.log_probs), 1)


class _Continuation(NamedTuple):
    row: int
    token: int
    log_prob: float


def search(first: Logits, step: Step, eos: int, width: int, cap: int) -> Written:
    """Return the best text.

    The search ends when ``width`` texts have ended, as in openai/whisper's ``BeamSearchDecoder`` with patience 1.

    Args:
        first: Logits of the first token ``[V]``; those of forbidden tokens are minus infinity.
        step: Runs the decoder for another token.
        eos: Token that ends a text.
        width: Number of hypotheses that are followed.
        cap: Largest number of tokens, end token included.
    """
    rows, logits = [Written()], first[None]
    ended: list[Written] = []
    for length in range(1, cap + 1):
        before, rows, parents = rows, [], []
        for row, token, log_prob in _best(before, logits, width):
            log_probs = (*before[row].log_probs, log_prob)
            if token == eos:
                ended.append(Written(before[row].tokens, log_probs))
            else:
                rows.append(Written((*before[row].tokens, token), log_probs))
                parents.append(row)
            if len(rows) == width:
                break
        if len(ended) >= width or not rows or length == cap:
            break
        logits = step(np.array([row.tokens[-1] for row in rows]), np.array(parents))
    return max(ended if len(ended) >= width else [*ended, *rows], key=lambda text: text.score, default=Written())


def _best(rows: list[Written], logits: Logits, width: int) -> list[_Continuation]:
    """The likeliest continuations, the best first: twice ``width``, since each row may end in one of them."""
    log_probs = _log_softmax(logits)
    sums = log_probs + np.array([[sum(row.log_probs)] for row in rows], np.float32)
    if width == 1:
        best = [int(sums.argmax())]
    else:
        best = np.argpartition(-sums, 2 * width, axis=None)[: 2 * width].tolist()
        best.sort(key=lambda place: -sums.flat[place])
    places = [divmod(place, logits.shape[1]) for place in best]
    return [_Continuation(row, token, float(log_probs[row, token])) for row, token in places]


def _log_softmax(logits: Logits) -> Logits:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Logits = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
