"""Commands: folders that are in use or missing, broken models, a full disk, Ctrl-C, one dev clip.

Each is tried here in its shortest form; the tests of the modules concerned try its whole kind.
"""

from __future__ import annotations

import contextlib
import io
import resource
from pathlib import Path

import pytest
import torch

import asr_lightning as asr
from asr_lightning.__main__ import main
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.cli import endings, stopping
from asr_lightning.cli.finished_run import recorded_options
from asr_lightning.cli.predict import audio_files
from asr_lightning.errors import ModelError
from asr_lightning.run.evidence import doubts
from asr_lightning.run.lock import RunLock
from asr_lightning.training.checkpoints import VerifiedCheckpoints
from tests.cases import case
from tests.cases.recordings import clips
from tests.tiny_models import tiny_whisper
from tests.toy_run import toy_data


def refused(*arguments: str) -> str:
    """What a command that is refused prints as its error."""
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        assert main([*arguments]) == 2
    return printed.getvalue()


@case("02_two_runs_same_folder")
def two_runs_in_one_folder(folder: Path, request: pytest.FixtureRequest) -> None:
    data, run_dir = clips(folder / "data"), folder / "run"
    with RunLock(run_dir) as lock:
        lock.take(new=True)
        error = refused("specialize", str(data), "--model", "toy", "--run_dir", str(run_dir))
    assert f"{run_dir} is in use by process" in error and "--run_dir" in error
    assert [path.name for path in folder.iterdir() if path != data] == ["run"], "nothing was renamed"


@case("08_broken_model_folder")
def broken_model_folder(folder: Path, request: pytest.FixtureRequest) -> None:
    source = tiny_whisper(folder / "source", multilingual=False)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 151061672\n"
    for name, content in (("model.safetensors", pointer), ("config.json", "<!DOCTYPE html>"), ("tokenizer.json", "")):
        WhisperAdapter(str(source)).save(model := folder / f"without_{name}")
        (model / name).write_text(content)
        with pytest.raises(ModelError, match=name):
            asr.load(model)


@case("09_predict_output")
def predict_output(folder: Path, request: pytest.FixtureRequest) -> None:
    data = clips(folder / "mac", 1)
    (data / "._001.wav").write_bytes(b"\x00\x05\x16\x07")
    assert [path.name for path in audio_files([data])] == ["001.wav"]
    error = refused("predict", str(data), "--model", "toy", "--output", str(folder / "nowhere" / "texts.csv"))
    assert f"mkdir -p {folder / 'nowhere'}" in error


@case("10_disk_full")
def disk_full(folder: Path, request: pytest.FixtureRequest) -> None:
    """A limit of the size of files looks to programs as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises((RuntimeError, OSError)) as caught:
            VerifiedCheckpoints().save_checkpoint({"weights": torch.zeros(100_000)}, folder / "new.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    ending = endings.of(caught.value)
    assert ending is not None and "the disk is full" in ending.message and not list(folder.iterdir())


@case("11_1e5")
def a_folder_named_like_a_number(folder: Path, request: pytest.FixtureRequest) -> None:
    (folder / "config.yaml").write_text("data:\n  audio_dir: 1e5\n")
    assert recorded_options(["validate", "--run_dir", str(folder)]) == ['--config={"data": {"audio_dir": "1e5"}}']


@case("13_ctrl_c")
def ctrl_c(folder: Path, request: pytest.FixtureRequest) -> None:
    with pytest.raises(stopping.RunStoppedError) as stopped, stopping.explained(folder, resumed=False):
        (folder / "checkpoints").mkdir()
        (folder / "checkpoints" / "last.ckpt").touch()
        raise KeyboardInterrupt
    ending = endings.of(stopped.value)
    assert ending is not None and ending.status == 130 and "--ckpt_path last" in ending.message


@case("15_one_dev_clip")
def one_dev_clip(folder: Path, request: pytest.FixtureRequest) -> None:
    splits = toy_data(clips(folder / "in")).splits
    assert len(splits["dev"]) == 1
    (dev, test) = doubts(splits, "off", 0.975, "")
    assert "dev has one text" in dev and "--folds 4" in dev and "test has one text" in test
