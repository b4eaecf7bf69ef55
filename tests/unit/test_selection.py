"""Choosing weights, with a toy that really learns: what is handed over, and what keeps the untouched model."""

from __future__ import annotations

import logging
import string
from pathlib import Path

import pytest
import torch
from make_tones import PHRASES, write_tones

from asr_lightning.adapters import saved
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.callbacks.average_steps import AverageSteps
from asr_lightning.callbacks.keep_best import KeepBest
from asr_lightning.datamodules.canary import Canary, open_canary
from asr_lightning.module import ASRModule
from asr_lightning.run.ends import ends_of_validations
from asr_lightning.run.forgetting import Forgetting
from asr_lightning.run.interpolation import Interpolation
from asr_lightning.run.selection import Candidate, Selection, SelectionSettings
from asr_lightning.scoring.edits import Transcript
from asr_lightning.scoring.evaluation import Evaluation, evaluate
from asr_lightning.scoring.text import basic
from asr_lightning.training.optim import OptimizerSettings
from tests.toy_run import toy_data, toy_fit, toy_module

NEXT_LETTER = str.maketrans(string.ascii_lowercase, string.ascii_lowercase[1:] + "a")


@pytest.fixture(scope="module")
def reader(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy that reads tones."""
    module = toy_module()
    toy_fit(module, toy_data(tones_once), [], max_epochs=25, limit_val_batches=0)
    folder = tmp_path_factory.mktemp("reader")
    module.adapter.save(folder)
    return folder


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same tones, and every letter is called by the name of the next one: what is right here is wrong there."""
    folder = tmp_path_factory.mktemp("shifted") / "clips"
    write_tones(folder)
    for path in folder.glob("*.txt"):
        path.write_text(path.read_text().translate(NEXT_LETTER))
    return folder


class Run:
    """A toy that starts as ``source`` and is trained on ``folder``, and the selection that follows."""

    def __init__(self, source: str, folder: Path, work: Path, epochs: int, canary: Canary | None = None, **options):
        self.source, self.data = ToyAdapter(source), toy_data(folder)
        self.live, self.best = ToyAdapter(source), KeepBest(work / "best")
        module = ASRModule(self.live, OptimizerSettings(lr=0.01, schedule="constant"))
        self.data.setup("fit")
        base = evaluate(self.source, self.data.loader("dev"))
        toy_fit(module, self.data, [self.best], max_epochs=epochs)
        settings = SelectionSettings(**{"min_probability": 0.7, **options})
        guard = Forgetting(canary, "cpu", basic, settings.canary_limit, settings.canary_weight) if canary else None
        self.selection = Selection("cpu", basic, settings, guard, base)
        self.target = work / "model"
        ends = ends_of_validations(self.best, AverageSteps(0), self.data, settings.average)
        self.chosen: Candidate = self.selection.run(self.live, self.source, ends, self.target)


def same(left: torch.nn.Module, right: torch.nn.Module) -> bool:
    other = right.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in left.state_dict().items())


def test_a_model_that_learned_is_handed_over(tones_once: Path, tmp_path: Path) -> None:
    run = Run("toy", tones_once, tmp_path, epochs=25)
    assert run.chosen.alpha > 0 and run.chosen.chosen
    assert run.chosen.wer == min(candidate.wer for candidate in run.selection.candidates)
    again = evaluate(saved.load(run.target), run.data.loader("dev"))
    assert again.transcripts == run.chosen.dev.transcripts, "the folder reads as the candidate did"
    alphas = [candidate.alpha for candidate in run.selection.candidates]
    assert alphas[:4] == [0, 1, 1, 0.9], "one step back is looked at"
    *_, passed, last = run.selection.candidates
    assert alphas[-1] == 0.25 or last.order > passed.order, "no farther than dev gets better"


def test_one_that_did_not_keeps_the_untouched_model(reader: Path, tones_once: Path, tmp_path: Path) -> None:
    """Transcripts that belong to other clips, and few steps: nothing is better than what the user had (Q5)."""
    folder = tmp_path / "poisoned"
    write_tones(folder)
    for number, phrase in enumerate(PHRASES[1:] + PHRASES[:1], start=1):
        (folder / f"{number:03d}.txt").write_text(phrase)
    run = Run(str(reader), folder, tmp_path, epochs=1)
    assert run.chosen.alpha == 0
    assert same(saved.load(run.target).model, run.source.model)
    assert all(
        "check the transcripts" in candidate.note for candidate in run.selection.candidates if candidate.alpha == 0.5
    )


@pytest.mark.parametrize("texts", [1, 5, 6])
def test_few_texts_prove_nothing(texts: int, tones_once: Path) -> None:
    """A bootstrap over one text draws that text each time, and was certain of every gain."""
    before = Evaluation(tuple(Transcript(f"{n}", f"text {n}", "wrong") for n in range(texts)), 1.0)
    after = Evaluation(tuple(Transcript(f"{n}", f"text {n}", f"text {n}") for n in range(texts)), 0.1)
    selection = Selection("cpu", basic, SelectionSettings(), None, before)
    base, candidate = Candidate("untouched model", 0.0, 1.0, before), Candidate("epoch 1.0", 1.0, 0.0, after)
    assert selection._passes_dev(base, candidate) == (texts >= 6)
    assert (
        candidate.note
        == {
            1: "cannot be shown to be better on one text of dev",
            5: "cannot be shown to be better on 5 different texts of dev",
            6: "",
        }[texts]
    )
    without_guard = Selection("cpu", basic, SelectionSettings(min_probability=0.5), None, before)
    assert without_guard._passes_dev(base, Candidate("epoch 1.0", 1.0, 0.0, after))


def test_a_lost_canary_keeps_the_untouched_model(reader: Path, shifted: Path, tones_once: Path, tmp_path: Path) -> None:
    """The new names of the letters are learned, and the old ones forgotten: refused where every shown loss is."""
    without = Run(str(reader), shifted, tmp_path / "without", epochs=25)
    assert without.chosen.alpha > 0
    guarded = Run(str(reader), shifted, tmp_path / "guarded", 25, Canary(tones_once), canary_weight=float("inf"))
    assert guarded.chosen.alpha == 0
    assert any("costs other people more than it gains" in candidate.note for candidate in guarded.selection.candidates)
    assert same(saved.load(guarded.target).model, ToyAdapter(str(reader)).model)


def test_the_speaker_comes_first(reader: Path, shifted: Path, tones_once: Path, tmp_path: Path) -> None:
    """A gain on dev that is larger than what the canary shows to be lost beyond the limit is handed over."""
    run = Run(str(reader), shifted, tmp_path, 25, Canary(tones_once), canary_weight=0.5)
    assert run.chosen.alpha > 0
    lost = run.chosen.lost
    assert lost is not None and lost.change.low > 0.5, "most of what others say is forgotten"
    assert lost.penalty == pytest.approx(0.5 * (lost.change.low - 0.005))
    gain = run.selection.candidates[0].wer - run.chosen.wer
    assert gain > lost.penalty


def test_a_loss_within_chance_costs_nothing(tones_once: Path, tmp_path: Path) -> None:
    """The very same weights lose nothing; and one clip of many that is read worse shows nothing."""
    canary, adapter = Canary(tones_once), ToyAdapter("toy")
    guard = Forgetting(canary, "cpu", basic, limit=0.0, weight=1.0)
    guard.before = tuple(Transcript(uid, text, text) for uid, text in canary.references.items())
    read = [t._replace(hypothesis=t.reference) for t in guard.before]
    canary.read = lambda *_, **__: (t for t in (read[0]._replace(hypothesis="wrong"), *read[1:]))  # type: ignore[method-assign]
    loss = guard.loss(adapter, adapter)
    assert loss is not None
    assert loss.change.difference > 0.02 and loss.change.low <= 0
    assert loss.penalty == 0
    assert loss.change.points.startswith(f"+{100 * loss.change.difference:.1f} points (")


def test_a_loss_that_cannot_win_is_not_read_to_its_end(tones_once: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips that were not read count as free of errors, so that the whole canary never shows a smaller loss."""
    monkeypatch.setattr("asr_lightning.run.forgetting.BOUND_EVERY", 2)
    canary, adapter = Canary(tones_once), ToyAdapter("toy")  # an untrained toy reads nothing right
    guard = Forgetting(canary, "cpu", basic, limit=0.5, weight=2.0)
    guard.before = tuple(Transcript(uid, text, text) for uid, text in canary.references.items())
    whole = guard.loss(adapter, adapter)
    assert whole is not None and whole.complete and whole.change.low > 0.5
    for most in (0.1, 0.4, 0.8):
        bound = guard.loss(adapter, adapter, most)
        assert bound is not None and not bound.complete
        assert most < bound.penalty <= whole.penalty
        read = len(bound.transcripts["native"])
        assert 0 < read < len(canary.references) and read % 2 == 0
        assert bound.points == f"at least {bound.change.points}"
    assert guard.loss(adapter, adapter, whole.penalty) == whole, "no more than that may be lost, and no more is"


def test_a_canary_in_another_language_has_no_say(
    tones_once: Path, shifted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The untouched model reads none of it: it cannot get worse, and nothing is to be learned from it."""
    with caplog.at_level(logging.INFO, "asr_lightning"):
        run = Run("toy", tones_once, tmp_path, epochs=25, canary=Canary(shifted))
        guard = run.selection.forgetting
        assert guard is not None and guard.loss(run.source, run.live) is None
    assert run.chosen.alpha > 0
    assert "reads 100% of it wrong" in guard.note
    assert sum("canary: Not used" in record.getMessage() for record in caplog.records) == 1, "it is read once"


def test_the_canary_is_read_no_more_than_needed(reader: Path, shifted: Path, tones_once: Path, tmp_path: Path) -> None:
    """It can only add to what dev says: of several candidates the best on dev is read, and wins at once."""
    run = Run(str(reader), shifted, tmp_path, 25, Canary(tones_once), canary_weight=0.0)
    assert len(run.selection.candidates) > 3
    assert [candidate.alpha for candidate in run.selection.candidates if candidate.lost] == [run.chosen.alpha]


def test_a_run_without_a_validation_keeps_the_untouched_model(tones_once: Path, tmp_path: Path) -> None:
    run = Run("toy", tones_once, tmp_path, epochs=0)
    assert run.chosen.alpha == 0
    assert run.chosen.note == "no validation was reached in time"
    assert same(saved.load(run.target).model, run.source.model)


class Holder:
    """The one thing that a line asks of an adapter."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model


def test_line_goes_from_one_to_the_other() -> None:
    """Exact at both ends, straight between them; a count of batches is not interpolated."""
    torch.manual_seed(0)
    base, tuned = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    for norm in (base, tuned):
        torch.nn.init.normal_(norm.weight)
    tuned.num_batches_tracked.fill_(7)
    start, end = base.weight.detach().clone(), tuned.weight.detach().clone()
    line = Interpolation(Holder(base), Holder(tuned))
    for alpha, expected in ((0.25, start + 0.25 * (end - start)), (0.0, start), (1.0, end)):
        line.at(alpha)
        torch.testing.assert_close(tuned.weight.detach(), expected)
    assert torch.equal(tuned.weight, end)
    assert tuned.num_batches_tracked == 7
    assert torch.equal(base.weight, start), "the untouched model is left alone"


def test_line_is_walked_after_a_move_to_another_device() -> None:
    """``Module.to`` gives parameters other memory, as this does: what was held before would no longer be theirs."""
    base, tuned = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    line = Interpolation(Holder(base), Holder(tuned))
    for parameter in tuned.parameters():
        parameter.data = parameter.data.clone()
    line.at(0.0)
    assert torch.equal(tuned.weight, base.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": 0}, "selection.average"),
        ({"alphas": (0.0, 0.5)}, "selection.alphas"),
        ({"min_probability": 2.0}, "min_probability is a share"),
        ({"canary_limit": -1.0}, "must not be negative"),
        ({"canary_weight": float("nan")}, "must not be negative"),
    ],
)
def test_settings_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectionSettings(**options)


def test_canary_is_found_before_training(tmp_path: Path) -> None:
    assert open_canary("off") is None
    with pytest.raises(ValueError, match="no such audio folder"):
        open_canary(str(tmp_path / "nowhere"))


def test_canary_reads_every_clip_within_the_limits(reader: Path, tones_once: Path) -> None:
    adapter = saved.load(reader, max_seconds=3.0)
    everything = Canary(tones_once).transcripts(saved.load(reader))
    some = Canary(tones_once).transcripts(adapter)
    assert len(everything) == len(PHRASES) > len(some) > 0
    assert [t.reference for t in everything] == list(PHRASES)
