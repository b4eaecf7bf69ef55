"""Is the change of a WER more than chance? The paired bootstrap, and the verdict drawn from it. Knows no model.

Source: Bisani & Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004;
Kaldi's ``compute-wer-bootci`` counts the draws with fewer errors in the same way (there a tie is no improvement).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from asr_lightning.scoring.edits import count_edits
from asr_lightning.scoring.rates import Pair
from asr_lightning.scoring.text import Normalizer

Verdict = Literal["better", "no clear change", "worse"]

DRAWS = 10_000
LEVEL = 0.95
MIN_GROUPS = 6
"""Number of different texts from which a verdict is drawn. Chance alone makes each of n texts better with a probability
of one half, and all of them with 0.5 to the power of n. That is 0.031 for 5, but 0.016 for 6, which is less than the
0.025 that the 95 % interval leaves on each side; and the bootstrap is certain of a gain if all texts got better."""
CHUNK = 1 << 19  # groups drawn at once: about 10 MB


@dataclass(frozen=True)
class Bootstrap:
    """The change of a corpus WER, after minus before, as fractions; below zero is better.

    Attributes:
        difference: The change on the clips themselves.
        low: Lower end of the 95 % interval.
        high: Upper end.
        p_better: Share of the draws in which the WER is lower after; a tie counts half.
        draws: How many data sets were drawn.
        groups: How many different reference texts there are.
    """

    difference: float
    low: float
    high: float
    p_better: float
    draws: int
    groups: int

    @property
    def points(self) -> str:
        """The change with its interval, in words: "+0.4 points (-0.3 to +1.1)"."""
        change, low, high = (100 * value for value in (self.difference, self.low, self.high))
        return f"{change:+.1f} points ({low:+.1f} to {high:+.1f})"


def bootstrap(pairs: Sequence[Pair], normalize: Normalizer, draws: int = DRAWS, seed: int = 0) -> Bootstrap:
    """The change of the corpus WER with its percentile interval, from ``draws`` resampled data sets.

    What is drawn are groups of utterances with equal normalised reference: clips of one text succeed and fail
    together, and counting them as independent would make the interval too narrow.

    Raises:
        ValueError: There is no utterance.
    """
    if not pairs:
        raise ValueError("no utterance to compare: give the clips that both models have transcribed")
    counts = _group_counts(pairs, normalize)
    sums = np.concatenate(list(_resampled_sums(counts, draws, np.random.default_rng(seed))))
    changes = _change(sums)
    fewer, more = sums[:, 1] < sums[:, 0], sums[:, 1] > sums[:, 0]
    low, high = np.percentile(changes, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    p_better = (1 + fewer.mean() - more.mean()) / 2
    difference = _change(counts.sum(axis=0, keepdims=True))[0]
    return Bootstrap(float(difference), float(low), float(high), float(p_better), draws, len(counts))


def most_certain(groups: int) -> float:
    """The highest probability of an improvement that ``groups`` different texts can show: see ``MIN_GROUPS``."""
    return 1 - 0.5**groups


def different_texts(count: int) -> str:
    """``count`` in words, such as "4 different texts"."""
    return f"{count} different texts" if count != 1 else "one text"


def verdict(change: Bootstrap) -> Verdict:
    """Better only if the whole interval is below zero, worse only if it is above; few groups allow no verdict."""
    if change.groups < MIN_GROUPS:
        return "no clear change"
    if change.high < 0:
        return "better"
    return "worse" if change.low > 0 else "no clear change"


def _group_counts(pairs: Iterable[Pair], normalize: Normalizer) -> NDArray[np.int64]:
    """Errors before, errors after and reference words ``[groups, 3]``, one row for each reference text."""
    rows: dict[str, list[int]] = {}
    for pair in pairs:
        before = count_edits(pair.reference, pair.before, normalize).words
        after = count_edits(pair.reference, pair.after, normalize).words
        row = rows.setdefault(normalize(pair.reference), [0, 0, 0])
        row[:] = [row[0] + before.errors, row[1] + after.errors, row[2] + before.reference]
    return np.array(list(rows.values()), dtype=np.int64)


def _resampled_sums(
    counts: NDArray[np.int64], draws: int, generator: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """The columns of ``counts`` summed over as many groups, drawn with replacement; ``[chunk, 3]`` at a time."""
    groups = len(counts)
    chunk = max(1, CHUNK // groups)
    for start in range(0, draws, chunk):
        drawn = generator.integers(groups, size=(min(chunk, draws - start), groups))
        yield np.stack([column[drawn].sum(axis=1) for column in counts.T], axis=1)


def _change(sums: NDArray[np.int64]) -> NDArray[np.float64]:
    """WER after minus before; without any reference word the errors themselves, as ``EditCounts.rate`` has it."""
    return (sums[:, 1] - sums[:, 0]) / np.maximum(sums[:, 2], 1)
