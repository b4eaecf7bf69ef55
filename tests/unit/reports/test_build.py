from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import asr_lightning
from asr_lightning.reports.build import build, measure, percent, points
from asr_lightning.reports.study import Candidate, Study, Validation
from asr_lightning.reports.write import write
from asr_lightning.scoring.edits import Transcript, score
from asr_lightning.scoring.rates import Pair
from asr_lightning.scoring.text import basic, none

NAMES = ["Anna", "Bert", "Carl", "Dora", "Emil", "Fred", "Gina", "Hans", "Inge", "Jens", "Karl", "Lena"]


def pairs(before_wrong: int, after_wrong: int) -> tuple[Pair, ...]:
    """Make twelve sentences of ten words, of which the first ``before_wrong`` or ``after_wrong`` words are wrong."""
    made = []
    for number, name in enumerate(NAMES):
        words = f"{name} would like some water with that bread and cheese.".split()
        wrong = [" ".join(["x"] * count + words[count:]) for count in (before_wrong, after_wrong)]
        made.append(Pair(f"{number:03d}", " ".join(words), *wrong))
    return tuple(made)


def study(**changes: Any) -> Study:
    """Make the study of a run that cut the word error rate from 40 to 10 percent."""
    plain = Study(
        model="toy",
        source="a folder",
        normalizer="basic",
        kept_base=False,
        decision="Epoch 1 was chosen: it has the lowest dev word error rate.",
        mode="true length",
        dev=pairs(3, 1),
        test=pairs(4, 1),
        native=pairs(4, 2),
        canary={"true length": pairs(1, 1), "30 s window": pairs(1, 1)},
        canary_name="twelve read sentences",
        canary_note="Few clips give a wide interval.",
        candidates=(
            Candidate("untouched model", 0.0, 0.3, 2.0, 0.1, note="for comparison"),
            Candidate("epoch 1", 1.0, 0.1, 0.5, 0.1, chosen=True),
        ),
        history=(Validation(10, 0.5, None, 1.0, 0.2), Validation(20, 1.0, 0.7, 0.5, 0.1)),
        clips={"train": 40, "dev": 12, "test": 12},
        seconds={"train": 100.0, "dev": 30.0, "test": 31.0},
        data_name="my recordings",
        data_sha256="ab" * 32,
        split_sha256="cd" * 32,
        cost={"train_seconds": 12.34, "peak_memory_mb": 1234.0},
        seed=7,
        versions={"torch": "2.11.0"},
        device="CPU",
        silence=("you", ""),
    )
    return replace(plain, **changes)


def sentence(**changes: Any) -> str:
    return build(study(**changes))["verdict"]["sentence"]


def test_better() -> None:
    assert sentence() == (
        "Better: on 12 test clips that it never heard, the word error rate fell from 40.0 % to 10.0 % "
        "(95 % interval of the change -30.0 to -30.0 points)."
    )


def test_worse() -> None:
    assert sentence(test=pairs(1, 2)).startswith(
        "Worse: on 12 test clips that it never heard, the word error rate rose"
    )


def test_no_clear_change() -> None:
    one_better = (*pairs(1, 1)[:-1], *pairs(1, 0)[-1:])
    assert build(study(test=one_better))["verdict"]["word"] == "no clear change"
    assert "so it may be chance" in sentence(test=one_better)
    assert sentence(test=pairs(1, 1)).startswith(
        "No clear change: on 12 test clips that it never heard, the word error"
    )
    assert "stayed at 10.0 %" in sentence(test=pairs(1, 1))


def test_a_clear_loss_on_others_is_in_the_sentence() -> None:
    canary = {"true length": pairs(1, 2), "30 s window": pairs(1, 4)}
    verdict = build(study(canary=canary))["verdict"]
    assert verdict["canary_loss"]
    assert verdict["sentence"].endswith(
        "On twelve read sentences (30 s window) it clearly got worse: from 10.0 % to 40.0 %."
    )
    assert not build(study())["verdict"]["canary_loss"]


def test_other_people_may_have_a_normaliser_of_their_own() -> None:
    numbers = tuple(Pair(name, "Press 1 now", "press one now", "press 1 now") for name in NAMES)
    plain = build(study(canary={"native": numbers}))["canary"]
    assert plain["modes"]["native"]["before"]["wer"] == pytest.approx(1 / 3)
    canary = build(study(canary={"native": numbers}, canary_normalizer="english"))["canary"]
    assert canary["normalizer"] == "english"
    assert canary["modes"]["native"]["before"]["wer"] == 0


def test_kept_base() -> None:
    report = build(study(kept_base=True, decision="no check was better on dev.", test=pairs(4, 4)))
    verdict, text = report["verdict"], report["verdict"]["sentence"]
    assert verdict["start"] == "The untouched model was kept"
    assert report["decision"] == "The untouched model was kept: no check was better on dev."
    assert text.startswith(report["decision"])
    assert text.endswith("Its word error rate on 12 test clips is 40.0 %.")


def test_rates_are_those_of_scoring() -> None:
    """Both normalisers and every split are scored; words and clips are counted by hand."""
    report = build(study())
    for split, texts in (("test", pairs(4, 1)), ("dev", pairs(3, 1)), ("native", pairs(4, 2))):
        for side in ("before", "after"):
            transcripts = [Transcript(pair.uid, pair.reference, getattr(pair, side)) for pair in texts]
            rates, reported = score(transcripts, basic), report[split][side]
            assert (reported["wer"], reported["cer"], reported["mean_wer"]) == (rates.wer, rates.cer, rates.mean_wer)
            assert reported["raw_wer"] == score(transcripts, none).wer
            assert reported["substitutions"] == rates.words.substitutions
        assert (report[split]["clips"], report[split]["words"]) == (12, 120)
    assert report["test"]["after"]["exact"] == 0.0
    assert build(study(test=pairs(1, 0)))["test"]["after"]["exact"] == 1.0


def test_raw_text_counts_capitals_and_punctuation() -> None:
    texts = tuple(pair._replace(before=pair.before.lower()) for pair in pairs(0, 0))
    before = build(study(test=texts))["test"]["before"]
    assert (before["wer"], before["exact"]) == (0.0, 1.0)
    assert before["raw_wer"] == 0.1


def test_normalizer_has_a_version() -> None:
    assert build(study())["normalizer"]["version"] == f"basic (asr_lightning {asr_lightning.__version__})"


def test_utterances_worst_first_then_by_uid() -> None:
    mixed = (*pairs(1, 0)[:4], *pairs(1, 2)[4:8], *pairs(1, 1)[8:])
    rows = build(study(test=mixed[::-1]))["utterances"]
    assert [row["uid"] for row in rows] == [f"{n:03d}" for n in (4, 5, 6, 7, 8, 9, 10, 11, 0, 1, 2, 3)]
    assert rows[0]["after"]["pieces"][0] == ["substitution", "x x"]


def test_short_test_is_warned_of() -> None:
    assert build(study())["verdict"]["warnings"] == []
    (short,) = build(study(test=pairs(4, 1)[:9]))["verdict"]["warnings"]
    assert "90 reference words" in short
    assert any("4 different texts" in warning for warning in build(study(test=pairs(4, 1)[:4]))["verdict"]["warnings"])


def test_empty_reference() -> None:
    """It has no words that could be wrong: what is written for it counts as inserted, and the report says so."""
    report = build(study(test=(*pairs(1, 0), Pair("cough", "[cough]", "uh um", ""))))
    assert report["test"]["before"]["insertions"] == 2
    assert report["test"]["empty_references"] == 1
    assert any("Check their transcripts" in warning for warning in report["verdict"]["warnings"])


def test_nothing_but_an_empty_reference() -> None:
    report = build(study(test=(Pair("1", "", "", ""),), dev=(), native=None, canary={}, silence=None))
    assert report["verdict"]["word"] == "no clear change"
    assert report["dev"] is report["native"] is report["silence"] is None


def test_json_round_trip(tmp_path: Path) -> None:
    """What is returned is what the file holds; NaN, which JSON lacks, is null."""
    history = (Validation(10, 0.5, None, float("nan"), 0.2), Validation(20, 1.0, float("inf"), 0.5, 0.1))
    (tmp_path / "model").mkdir()
    (tmp_path / "report.md").write_text("old")
    report = write(study(history=history), tmp_path)
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8")) == report
    assert report["history"][0]["dev_loss"] is None
    assert report["history"][1]["train_loss"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "report.html", "report.json", "report.md"]
    assert (tmp_path / "report.md").read_text() != "old"


def test_no_test_clip_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give the test split at least one clip"):
        write(study(test=()), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_numbers_for_people() -> None:
    assert (percent(0.0858), points(-0.234), points(0.1), points(-0.0001)) == ("8.6 %", "-23.4", "+10.0", "0.0")
    assert measure("train_seconds", 85.23) == ("Train", "85.2 s")
    assert measure("peak_memory_mb", 3646.0) == ("Peak memory", "3,646 MB")
    assert measure("steps", 210) == ("Steps", "210")
