"""Choosing weights, with a toy that really learns: what is handed over, and what keeps the untouched model."""

from __future__ import annotations

import logging
import string
from pathlib import Path

import pytest
import torch
from make_tones import PHRASES, write_tones

from asr_lightning import saved
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.callbacks.keep_best import KeepBest
from asr_lightning.canary import Canary, open_canary
from asr_lightning.evaluation import evaluate
from asr_lightning.module import ASRModule
from asr_lightning.optim import OptimizerSettings
from asr_lightning.selection import Candidate, Line, Selection, SelectionSettings
from asr_lightning.text import basic
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
        settings = SelectionSettings(**{"min_probability": 0.9, **options})
        self.selection = Selection(self.data, "cpu", basic, settings, canary, base)
        self.target = work / "model"
        self.chosen: Candidate = self.selection.run(self.live, self.source, self.best, self.target)


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


def test_a_lost_canary_keeps_the_untouched_model(reader: Path, shifted: Path, tones_once: Path, tmp_path: Path) -> None:
    """The new names of the letters are learned, and the old ones forgotten."""
    without = Run(str(reader), shifted, tmp_path / "without", epochs=25)
    assert without.chosen.alpha > 0
    guarded = Run(str(reader), shifted, tmp_path / "guarded", epochs=25, canary=Canary(tones_once))
    assert guarded.chosen.alpha == 0
    assert any(
        "points on the canary (native), more than 0.5" in candidate.note for candidate in guarded.selection.candidates
    )
    assert same(saved.load(guarded.target).model, ToyAdapter(str(reader)).model)


def test_a_canary_in_another_language_has_no_say(tones_once: Path, shifted: Path, tmp_path: Path) -> None:
    """The untouched model reads none of it: it cannot get worse, and nothing is to be learned from it."""
    run = Run("toy", tones_once, tmp_path, epochs=25, canary=Canary(shifted))
    assert run.chosen.alpha > 0
    assert "reads 100% of it wrong" in run.selection.canary_note


def test_a_canary_without_a_say_is_read_once(
    tones_once: Path, shifted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The next step of the walk asks it again, and is let pass at once."""
    with caplog.at_level(logging.INFO, "asr_lightning"):
        run = Run("toy", tones_once, tmp_path, epochs=25, canary=Canary(shifted))
        base, *_, step = run.selection.candidates
        assert run.selection._passes_canary(base, step, run.source, run.live)
    assert sum("canary: Not used" in record.getMessage() for record in caplog.records) == 1


def test_a_run_without_a_check_keeps_the_untouched_model(tones_once: Path, tmp_path: Path) -> None:
    run = Run("toy", tones_once, tmp_path, epochs=0)
    assert run.chosen.alpha == 0
    assert run.chosen.note == "no check of dev was reached in time"
    assert same(saved.load(run.target).model, run.source.model)


def test_line_goes_from_one_to_the_other() -> None:
    """Exact at both ends, straight between them; a count of batches is not interpolated."""
    torch.manual_seed(0)
    base, tuned = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3)
    for norm in (base, tuned):
        torch.nn.init.normal_(norm.weight)
    tuned.num_batches_tracked.fill_(7)
    start, end = base.weight.detach().clone(), tuned.weight.detach().clone()
    line = Line(base, tuned)
    for alpha, expected in ((0.25, start + 0.25 * (end - start)), (0.0, start), (1.0, end)):
        line.set(alpha)
        torch.testing.assert_close(tuned.weight.detach(), expected)
    assert torch.equal(tuned.weight, end)
    assert tuned.num_batches_tracked == 7
    assert torch.equal(base.weight, start), "the untouched model is left alone"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"average": 0}, "selection.average"),
        ({"alphas": (0.0, 0.5)}, "selection.alphas"),
        ({"min_probability": 2.0}, "min_probability is a share"),
        ({"canary_limit": -1.0}, "canary_limit must not be negative"),
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
