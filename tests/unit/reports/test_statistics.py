from __future__ import annotations

import random
import time

import numpy as np
import pytest

from asr_lightning.reports.statistics import Bootstrap, bootstrap, verdict
from asr_lightning.scoring.rates import Pair
from asr_lightning.scoring.text import basic, none

WORDS = [f"w{number}" for number in range(50)]


def written(reference: str, errors: int) -> str:
    """Return ``reference`` with its first ``errors`` words replaced."""
    words = reference.split()
    return " ".join(["x"] * errors + words[errors:])


def made(rng: random.Random, clips: int, before: float = 0.4, after: float = 0.2) -> list[Pair]:
    """Make clips of 3 to 9 words, in which each word is wrong with the probability ``before`` or ``after``."""
    pairs = []
    for number in range(clips):
        reference = " ".join([f"t{number}", *rng.choices(WORDS, k=rng.randint(2, 8))])
        size = len(reference.split())
        wrong = [sum(rng.random() < rate for _ in range(size)) for rate in (before, after)]
        pairs.append(Pair(str(number), reference, written(reference, wrong[0]), written(reference, wrong[1])))
    return pairs


def slow_bootstrap(pairs: list[Pair], draws: int, seed: int) -> tuple[list[float], float]:
    """Bootstrap in the textbook way, one draw at a time; return sorted changes, and the share of better draws."""
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(pair.reference, []).append(pair)
    rng, changes, better = random.Random(seed), [], 0.0
    for _ in range(draws):
        drawn = [pair for group in rng.choices(list(groups.values()), k=len(groups)) for pair in group]
        words = sum(len(pair.reference.split()) for pair in drawn)
        before, after = (sum(getattr(pair, side).split().count("x") for pair in drawn) for side in ("before", "after"))
        changes.append((after - before) / words)
        better += 1.0 if after < before else 0.5 if after == before else 0.0
    return sorted(changes), better / draws


@pytest.mark.parametrize(("before", "after"), [(0.4, 0.2), (0.3, 0.28), (0.2, 0.35)])
def test_equals_an_independent_bootstrap(before: float, after: float) -> None:
    pairs = made(random.Random(1), 40, before, after)
    pairs += [pair._replace(uid=f"again{pair.uid}") for pair in pairs[:10]]
    interval = bootstrap(pairs, none)
    changes, p_better = slow_bootstrap(pairs, 4000, seed=7)
    assert interval.groups == 40
    assert interval.low == pytest.approx(changes[99], abs=0.006)
    assert interval.high == pytest.approx(changes[3899], abs=0.006)
    assert interval.p_better == pytest.approx(p_better, abs=0.03)


def test_equals_scipy() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed: a second opinion, not a requirement")
    pairs = made(random.Random(2), 50)
    rows = np.array([[p.before.count("x"), p.after.count("x"), len(p.reference.split())] for p in pairs])

    def change(before, after, words, axis):
        return (after.sum(axis=axis) - before.sum(axis=axis)) / words.sum(axis=axis)

    theirs = stats.bootstrap(tuple(rows.T), change, paired=True, vectorized=True, method="percentile", rng=0)
    ours = bootstrap(pairs, none)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.005)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.005)


def test_interval_covers_the_truth() -> None:
    """In about 95 % of 200 data sets with a true change of -20 points, the 95 % interval contains it."""
    rng = random.Random(3)
    intervals = [bootstrap(made(rng, 60), none, draws=1000, seed=number) for number in range(200)]
    covered = sum(interval.low <= -0.2 <= interval.high for interval in intervals) / len(intervals)
    print(f"covered: {covered:.1%}")
    assert 0.90 <= covered <= 0.98


def test_no_change_is_seldom_called_one() -> None:
    rng = random.Random(4)
    verdicts = [verdict(bootstrap(made(rng, 60, 0.3, 0.3), none, draws=1000, seed=number)) for number in range(100)]
    assert verdicts.count("no clear change") >= 88


def test_clips_of_one_text_count_as_one() -> None:
    """Ten clips of each text give no more evidence than one, so the interval stays as wide."""
    pairs = made(random.Random(5), 12)
    copies = [pair._replace(uid=f"{pair.uid}-{number}") for pair in pairs for number in range(10)]
    apart = [pair._replace(reference=f"{pair.reference} n{number}") for number, pair in enumerate(copies)]
    once, grouped, naive = (bootstrap(texts, none) for texts in (pairs, copies, apart))
    assert (grouped.low, grouped.high, grouped.groups) == (once.low, once.high, 12)
    assert naive.high - naive.low < 0.5 * (grouped.high - grouped.low)


def test_texts_are_grouped_after_normalisation() -> None:
    pairs = [Pair("1", "Good night.", "x", "good night"), Pair("2", "good night", "good", "good night")]
    assert bootstrap(pairs, basic).groups == 1
    assert bootstrap(pairs, none).groups == 2


def test_same_seed_same_interval() -> None:
    pairs = made(random.Random(6), 30)
    assert bootstrap(pairs, none, seed=1) == bootstrap(pairs, none, seed=1)
    assert bootstrap(pairs, none, seed=1) != bootstrap(pairs, none, seed=2)


def test_ten_thousand_draws_of_300_clips_take_no_time() -> None:
    pairs = made(random.Random(7), 300)
    started = time.process_time()
    bootstrap(pairs, none)
    print(f"{time.process_time() - started:.2f} s")
    assert time.process_time() - started < 3  # under 0.1 s where nothing else runs


@pytest.mark.parametrize(
    ("low", "high", "groups", "expected"),
    [
        (-0.2, -0.1, 49, "better"),
        (-0.2, 0.0, 49, "no clear change"),
        (-0.1, 0.1, 49, "no clear change"),
        (0.0, 0.1, 49, "no clear change"),
        (0.01, 0.1, 49, "worse"),
        (-0.2, -0.1, 6, "better"),
        (-0.2, -0.1, 5, "no clear change"),
        (0.1, 0.1, 1, "no clear change"),
    ],
)
def test_verdict(low: float, high: float, groups: int, expected: str) -> None:
    assert verdict(Bootstrap((low + high) / 2, low, high, 0.5, 10_000, groups)) == expected


def test_one_text_gives_a_point_and_no_verdict() -> None:
    change = bootstrap([Pair("1", "a b c d", "x x c d", "a b c d")], none)
    assert change.difference == change.low == change.high == -0.5
    assert change.p_better == 1.0
    assert verdict(change) == "no clear change"


def test_equal_transcripts_are_ties() -> None:
    change = bootstrap([Pair(str(n), f"a b {n}", "a b", "a b") for n in range(8)], none)
    assert (change.difference, change.low, change.high, change.p_better) == (0, 0, 0, 0.5)


def test_empty_references_leave_it_defined() -> None:
    change = bootstrap([Pair("1", "", "uh", ""), Pair("2", "[noise]", "", "uh um")], basic, draws=100)
    assert change.groups == 1
    assert change.difference == 1.0  # one error before, two after, no reference word


def test_nothing_to_compare_is_an_error() -> None:
    with pytest.raises(ValueError, match="give the clips"):
        bootstrap([], none)
