"""What the gate lets through, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from asr_lightning.export.gate import Context, text_problems
from asr_lightning.export.measure import Clip, Reading
from asr_lightning.runtime.formats import FORMATS, Target
from asr_lightning.scoring.text import normalizer

CTRANSLATE2 = next(known for known in FORMATS if known.name == "ctranslate2")
CLIPS = tuple(Clip(f"{number:03}", Path("unread.wav"), f"clip number {number} says this") for number in range(100))
WORDS = 500


def reading(wrong_words: int = 0, other_texts: int = 0) -> Reading:
    """A reading with ``wrong_words`` errors, one in a clip, and ``other_texts`` texts that differ by a full stop."""
    texts = {}
    for number, clip in enumerate(CLIPS):
        text = clip.text.replace("says", "said") if number < wrong_words else clip.text
        texts[clip.uid] = f"{text}." if len(CLIPS) - number <= other_texts else text
    return Reading(texts, [1.0] * len(CLIPS), [1.0] * len(CLIPS), 100.0, 1.0, 100.0)


def problems(variant: str, runtime: Reading, torch: Reading | None = None, name: str = "") -> list[str]:
    context = Context(name, torch or reading(), runtime)
    return text_problems(Target(CTRANSLATE2, variant), [context], CLIPS, normalizer("basic"))


@pytest.mark.parametrize(("variant", "allowed"), [("fp32", 5), ("int8", 10)])  # one clip of five words is 1 % of all
def test_refuses_more_errors_than_the_tolerance_or_one_clip(variant: str, allowed: int) -> None:
    assert problems(variant, reading(wrong_words=allowed)) == []
    problem = problems(variant, reading(wrong_words=allowed + 1))[0]
    assert "points worse" in problem and "0.0% in torch" in problem


def test_fewer_errors_are_no_problem() -> None:
    assert problems("int8", reading(), torch=reading(wrong_words=50)) == []


def test_unquantized_texts_must_be_those_of_torch() -> None:
    assert problems("fp32", reading(other_texts=5)) == []
    (problem,) = problems("fp32", reading(other_texts=6), name="30 s window")
    assert problem == "only 94% of its texts in the 30 s window equal those of torch, where 95% are required"
    assert problems("int8", reading(other_texts=50)) == []


def test_each_context_is_judged() -> None:
    contexts = [Context("", reading(), reading()), Context("30 s window", reading(), reading(wrong_words=60))]
    found = text_problems(Target(CTRANSLATE2, "fp32"), contexts, CLIPS, normalizer("basic"))
    assert len(found) == 2
    assert all("in the 30 s window" in problem for problem in found)
