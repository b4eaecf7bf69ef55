"""Two processes score the same weights to the same last digit as one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def fit(folder: Path, run_dir: Path, *more: str) -> dict:
    paths = ["--data.audio_dir", str(folder), "--run_dir", str(run_dir), "--data.batch_size", "2"]
    command = [sys.executable, "-m", "asr_lightning", "fit", "--config", "configs/models/toy.yaml", *paths, *more]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads((run_dir / "results.json").read_text())


@pytest.fixture(scope="module")
def two(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    run_dir = tmp_path_factory.mktemp("ddp") / "two"
    results = fit(tones_once, run_dir, "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=8")
    return results, run_dir


def test_dev_wer_of_two_processes_equals_one(two: tuple[dict, Path]) -> None:
    """The best validation, made by two ranks, beside its weights scored by one process after the run.

    There are three dev clips in two batches, and a BatchNorm, whose buffers DDP broadcasts in every forward.
    """
    results, run_dir = two
    report = json.loads((run_dir / "report.json").read_text())
    best = min(row["dev_wer"] for row in report["history"])
    assert best == torch.tensor(report["candidates"][1]["dev_wer"]).item()
    assert results["dev"]["wer"]["after"] < results["dev"]["wer"]["before"]


def test_baseline_of_two_processes_equals_one(two: tuple[dict, Path], tones_once: Path, tmp_path: Path) -> None:
    one = fit(tones_once, tmp_path / "one", "--trainer.max_epochs=1")
    assert one["dev"]["wer"]["before"] == two[0]["dev"]["wer"]["before"]
    assert one["test"]["wer"]["before"] == two[0]["test"]["wer"]["before"]
