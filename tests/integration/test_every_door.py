"""One run through every entry gives the same weights to the last bit: commands, Python, a job and a rental."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile

import asr_lightning as asr
from asr_lightning.__main__ import main
from asr_lightning.cloud import budget
from asr_lightning.data import audio
from tests.integration.test_every_model import put_into
from tests.server.trainer.jobs import make_job

SAMPLE = Path(__file__).parents[2] / "examples" / "german_accent" / "clips"
Door = Callable[[str, Path, Path, int], Path]
"""Model, clips, folder to make and epochs; returns a folder with ``model/``."""
SLOW_TEST_EPOCHS = 2
SLOW_TEST_CLIPS = 60

pytestmark = pytest.mark.once


def by_python(model: str, clips: Path, place: Path, epochs: int) -> Path:
    return asr.specialize(clips, model, run_dir=place, epochs=epochs, accelerator="cpu").run_dir


def by_specialize(model: str, clips: Path, place: Path, epochs: int) -> Path:
    options = [f"--trainer.max_epochs={epochs}", "--trainer.accelerator=cpu"]
    assert main(["specialize", str(clips), "--model", model, "--run_dir", str(place), *options]) == 0
    return place


def by_fit(model: str, clips: Path, place: Path, epochs: int) -> Path:
    options = [f"--trainer.max_epochs={epochs}", "--trainer.accelerator=cpu"]
    assert main(["fit", "--model", model, "--data.audio_dir", str(clips), "--run_dir", str(place), *options]) == 0
    return place


def by_job(model: str, clips: Path, place: Path, epochs: int) -> Path:
    job = make_job(place, clips, epochs=epochs, model=model, source=model)
    command = [sys.executable, "-m", "asr_lightning", "run-job", str(job)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return job / "run"


def by_cloud(model: str, clips: Path, place: Path, epochs: int) -> Path:
    """A rental deletes its run folder and sends the model alone."""
    order = ["--provider", "local", "--gpu", "cpu", "--model", model, "--epochs", str(epochs)]
    assert main(["cloud", "run", str(clips), *order, "--yes", "--quiet", "-o", str(place)]) == 0
    with tarfile.open(place / "model.tar.gz") as archive:
        archive.extractall(place, filter="data")
    return place


DOORS = (by_python, by_specialize, by_fit, by_job)
FEWER = (by_python, by_job)  # a random Whisper writes until its cap, which takes time


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rentals start at once, and leave nothing in the user's own folder."""
    monkeypatch.setenv("ASR_CLOUD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(budget, "STARTUP_HERE_S", 1.0)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub, for this process and those that it starts; and no network."""
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


def hashes(folder: Path, pattern: str) -> list[str]:
    files = sorted(folder.glob(pattern))
    assert files, f"{folder} has no {pattern}"
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@pytest.mark.parametrize(("name", "doors"), [("whisper-tiny.en", FEWER), ("wav2vec2-base-960h", DOORS)])
def test_folds_of_a_tiny_random_model_are_equal(
    name: str, doors: tuple[Door, ...], hub: Path, tones_once: Path, tmp_path: Path
) -> None:
    """A random model gains nothing in one epoch, so every door hands over the untouched one: the folds are compared."""
    put_into(hub, name)
    (tmp_path / "doors").mkdir()
    clips = tmp_path / "clips"  # without a split, as a job has them: all of them are in folds, and tested out of fold
    shutil.copytree(tones_once, clips, ignore=shutil.ignore_patterns("*.csv"))
    trained = [
        hashes(door(name, clips, tmp_path / "doors" / door.__name__, 1), "checkpoints/folds/*.safetensors")
        for door in doors
    ]
    assert len(set(trained[0])) == 4, "each fold has weights of its own"
    assert all(other == trained[0] for other in trained[1:])


def test_a_rental_hands_over_the_same_model(tones_once: Path, tmp_path: Path) -> None:
    clips = as_sent(tones_once, tmp_path / "clips", "wav")
    made = by_python("toy", clips, tmp_path / "python", 3), by_cloud("toy", clips, tmp_path / "rental", 3)
    (here,), (there,) = (hashes(folder, "model/toy.pt") for folder in made)
    assert here == there


def as_sent(clips: Path, folder: Path, suffix: str, count: int | None = None) -> Path:
    """The first ``count`` clips as a server and a rented machine store them: 16 kHz, 16 bits, names of their own."""
    folder.mkdir()
    for number, text in enumerate(sorted(clips.glob("*.txt"))[:count], start=1):
        uid = f"clip-{number:04d}"
        shutil.copy(text, folder / f"{uid}.txt")
        samples = audio.load(text.with_suffix(f".{suffix}"), 16_000)
        soundfile.write(folder / f"{uid}.flac", samples, 16_000, "PCM_16")
    return folder


@pytest.mark.skipif(not os.environ.get("ASR_TEST_SLOW"), reason="a quarter of an hour: ASR_TEST_SLOW=1 runs it")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("door", [by_specialize, by_fit, by_job, by_cloud])
def test_the_real_tiny_en_is_handed_over_equal(door: Door, one_run: tuple[Path, Path], tmp_path: Path) -> None:
    clips, first = one_run
    (tmp_path / "doors").mkdir()
    second = door("whisper-tiny.en", clips, tmp_path / "doors" / "run", SLOW_TEST_EPOCHS)
    assert hashes(second, "model/model.safetensors") == hashes(first, "model/model.safetensors")


@pytest.fixture(scope="module")
def one_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A part of the sample data set, and a run over it from Python that has gained something."""
    clips = tmp_path_factory.mktemp("real") / "clips"
    as_sent(SAMPLE, clips, "ogg", SLOW_TEST_CLIPS)
    run_dir = clips.with_name("run")
    outcome = asr.specialize(clips, "whisper-tiny.en", run_dir=run_dir, epochs=SLOW_TEST_EPOCHS, accelerator="cpu")
    assert outcome.alpha > 0, "the model that is handed over is the trained one"
    return clips, outcome.run_dir
