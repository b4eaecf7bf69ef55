"""A Whisper with dropout and masked spectra is killed and resumed: the states of its random generators are restored."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.server.trainer.jobs import assign, log, read, train
from tests.tiny_models import tiny_whisper
from tests.unit.conftest import SENTENCES, write_audio


@pytest.mark.once
def test_a_killed_whisper_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    source = tiny_whisper(tmp_path / "tiny", multilingual=True)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"dropout": 0.1, "apply_spec_augment": True}))
    once, again = tmp_path / "once", tmp_path / "again"
    _write_clips(once / "dataset", count=48)
    shutil.copytree(once, again)
    options = {"source": str(source), "model": "tiny", "language": "de", "epochs": 2}
    for job in (once, again):
        assign(job, **options)
    assert train(once) == 0, log(once)
    assert train(again, "training.fold.kept:kill:2") == -9, log(again)
    assign(again, attempt=2, resume=True, **options)
    assert train(again) == 0, log(again)
    assert read(again, "progress.json")["resumed_from"] == "fold-2-of-4.safetensors"
    folds = [sorted((job / "run" / "checkpoints" / "folds").iterdir()) for job in (once, again)]
    assert len(folds[0]) == 4
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*folds, strict=True))
    first, second = (load_file(job / "run" / "model" / "model.safetensors") for job in (once, again))
    assert all(first[name].equal(second[name]) for name in first)
    assert read(once, "exit.json")["metrics"] == read(again, "exit.json")["metrics"]


def test_a_job_leaves_no_text_outside_its_folder(tmp_path: Path) -> None:
    """A run of the same user keeps texts of the untouched model; of a job they would outlive its deletion."""
    source, job, home = tiny_whisper(tmp_path / "tiny", multilingual=True), tmp_path / "job", tmp_path / "home"
    home.mkdir()
    _write_clips(job / "dataset")
    assign(job, source=str(source), model="tiny", language="de", epochs=1)
    places = {"ASR_LIGHTNING_CACHE": str(home / "named"), "XDG_CACHE_HOME": str(home), "HOME": str(home)}
    assert train(job, env=places) == 0, log(job)
    assert not [path for path in home.rglob("*") if path.name in ("named", "texts", "asr_lightning")]


def _write_clips(folder: Path, count: int = 12) -> None:
    """Clips of different texts."""
    folder.mkdir(parents=True)
    for number in range(count):
        path = folder / f"clip-{number:04d}.wav"
        write_audio(path, 1.0, 16_000, 1, pitch=150.0 + 5 * number)
        path.with_suffix(".txt").write_text(f"{SENTENCES[number % 12]} {number // 12}")


def test_a_language_of_an_english_model_is_refused(tmp_path: Path) -> None:
    job = tmp_path / "job"
    (job / "dataset").mkdir(parents=True)
    assign(job, source=str(tiny_whisper(tmp_path / "tiny", multilingual=False)), language="de")
    assert train(job) == 1
    error = read(job, "exit.json")["error"]
    assert (error["code"], error["param"]) == ("invalid_parameter", "language")
    assert "needs a multilingual one" in error["message"]
