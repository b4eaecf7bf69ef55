from __future__ import annotations

import random

import pytest

from asr_lightning.reports.words import Confusion, WordErrors, confusions, difference, worst_words
from asr_lightning.scoring.edits import count_edits
from asr_lightning.scoring.rates import Pair
from asr_lightning.scoring.text import basic, none

PAIRS = [
    Pair("1", "The cat sat.", "ze cat sat", "the cat sat"),
    Pair("2", "The dog sat!", "ze dog", "ze dog sat down"),
    Pair("3", "The end", "", "the end"),
]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("a b c", "a b c", [("equal", "a b c")]),
        ("a b c", "a x c", [("equal", "a"), ("substitution", "x"), ("equal", "c")]),
        ("a b c", "a", [("equal", "a"), ("deletion", "b c")]),
        ("a b", "a b c d", [("equal", "a b"), ("insertion", "c d")]),
        ("a b c d", "x y d", [("substitution", "x y"), ("deletion", "c"), ("equal", "d")]),
        ("", "a b", [("insertion", "a b")]),
        ("a", "", [("deletion", "a")]),
        ("", "", []),
    ],
)
def test_difference(reference: str, hypothesis: str, expected: list[tuple[str, str]]) -> None:
    assert difference(reference, hypothesis) == expected


def test_confusions_before_and_after() -> None:
    listed = confusions(PAIRS, basic)
    assert listed[0] == Confusion("substitution", "the", "ze", 2, 1)
    assert set(listed[1:]) == {
        Confusion("insertion", "", "down", 0, 1),
        Confusion("deletion", "sat", "", 1, 0),
        Confusion("deletion", "the", "", 1, 0),
        Confusion("deletion", "end", "", 1, 0),
    }


def test_worst_words() -> None:
    assert worst_words(PAIRS, basic) == [
        WordErrors("the", 3, 3, 1),
        WordErrors("end", 1, 1, 0),
        WordErrors("sat", 2, 1, 0),
    ]


def test_errors_add_up_to_those_of_the_word_error_rate() -> None:
    rng = random.Random(0)
    pairs = [
        Pair(str(number), *(" ".join(rng.choices("abcde", k=rng.randint(0, 8))) for _ in range(3)))
        for number in range(60)
    ]
    listed = confusions(pairs, none)
    for side in ("before", "after"):
        edits = sum(count_edits(pair.reference, getattr(pair, side), none).words.errors for pair in pairs)
        assert sum(getattr(item, side) for item in listed) == edits
        inserted = sum(getattr(item, side) for item in listed if item.kind == "insertion")
        assert sum(getattr(item, side) for item in worst_words(pairs, none)) == edits - inserted
