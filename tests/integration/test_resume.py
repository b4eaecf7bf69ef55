"""A run that was killed and resumed ends with the weights of a run that was not killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ARGUMENTS = ["--config", "configs/models/toy.yaml", "--trainer.max_epochs", "6", "--model.optimizer.schedule", "cosine"]


def command(folder: Path, run_dir: Path, *more: str) -> list[str]:
    paths = ["--data.audio_dir", str(folder), "--run_dir", str(run_dir)]
    return [sys.executable, "-m", "asr_lightning", "fit", *ARGUMENTS, *paths, *more]


def run(folder: Path, run_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(folder, run_dir, *more), capture_output=True, text=True, timeout=300)


def weights(run_dir: Path) -> dict[str, torch.Tensor]:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def undisturbed(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "run"
    result = run(tones_once, run_dir)
    assert result.returncode == 0, result.stderr
    return run_dir


def test_killed_and_resumed_gives_the_same_weights(tones_once: Path, undisturbed: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    process = subprocess.Popen(command(tones_once, run_dir), start_new_session=True)
    checkpoint = run_dir / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 200
    while not checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert torch.load(checkpoint, weights_only=True)["epoch"] < 5, "killed too late to test anything"
    result = run(tones_once, run_dir, "--ckpt_path", "last")
    assert result.returncode == 0, result.stderr
    expected = weights(undisturbed)
    resumed = weights(run_dir)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert sorted(p.name for p in run_dir.glob("config*.yaml")) == ["config-2.yaml", "config.yaml"]


def test_a_finished_run_is_concluded_anew(tones_once: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Nothing is trained; weights are chosen, tested and reported again, which other rules of selection can use."""
    copy = Path(shutil.copytree(undisturbed, tmp_path / "copy"))
    result = run(tones_once, copy, "--ckpt_path", "last")
    assert result.returncode == 0, result.stderr
    before, after = (json.loads((folder / "results.json").read_text()) for folder in (undisturbed, copy))
    assert after["test"] == before["test"] and after["chosen"] == before["chosen"]
    assert after["train_seconds"] == after["train_utterances_per_second"] == 0


def test_resume_keeps_other_run(tones_once: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Lightning's callback restores the old run's paths; a copied run must not delete what they name."""
    before = (undisturbed / "checkpoints" / "last.ckpt").read_bytes()
    copy = Path(shutil.copytree(undisturbed, tmp_path / "copy"))
    result = run(tones_once, copy, "--ckpt_path", "last", "--trainer.max_epochs", "7")
    assert result.returncode == 0, result.stderr
    assert (undisturbed / "checkpoints" / "last.ckpt").read_bytes() == before
    assert torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 6


def test_rerun_same_directory(tones_once: Path, undisturbed: Path) -> None:
    """A second run in the same folder renames the first, which stays complete."""
    before = (undisturbed / "results.json").read_bytes()
    result = run(tones_once, undisturbed, "--trainer.max_epochs", "1")
    assert result.returncode == 0, result.stderr
    kept = undisturbed.with_name("run-2")
    assert (kept / "results.json").read_bytes() == before
    assert str(kept) in result.stderr
    assert (undisturbed / "results.json").is_file()


def test_nothing_to_resume_is_an_error(tones_once: Path, tmp_path: Path) -> None:
    result = run(tones_once, tmp_path / "new", "--ckpt_path", "last")
    assert result.returncode == 2
    assert "nothing to resume" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resuming_with_max_steps_is_refused(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lightning 2.6 would count an epoch that it never trains; without the limit the same run can be resumed."""
    from asr_lightning.__main__ import main

    fit = ["fit", "--model", "toy", "--data.audio_dir", str(tones), "--run_dir", str(tmp_path / "run")]
    assert main([*fit, "--trainer.max_epochs=1", "--trainer.max_steps=50"]) == 0
    more = [*fit, "--trainer.max_epochs=2", "--ckpt_path=last"]
    assert main([*more, "--trainer.max_steps=50"]) == 2
    assert "cannot be resumed exactly: add --trainer.max_steps=-1" in capsys.readouterr().err
    assert main(more) == 0
    assert torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
