"""The same batches give the same steps, and the same weights the same figures, for any number of processes.

Each step has four batches of two clips, accumulated by one process or shared by two or four. Nine training clips make
five batches, so the last step of each epoch has one batch, to which four processes add three repeats. Dropout, masks
and label smoothing are on: they are drawn by epoch and batch. Runs with compiled layers equal the one without.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

Runs = dict[str, dict[str, Any]]


def run(kind: str, source: Path, data: Path, target: Path, *runs: str) -> Runs:
    command = [sys.executable, "-m", "tests.many_devices", kind, str(source), str(data), str(target), *runs]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr[-5000:]
    return {name: torch.load(target / f"{name}.pt", weights_only=True) for name in runs}


def assert_equal_runs(runs: Runs) -> None:
    """Compare each run with that of one process.

    Equal weights have equal error rates to the last digit. After 20 steps, most weights differ by 1e-7, since gradients
    are summed in another order. The gradient of the bias of an attention key consists of rounding errors, which Adam
    turns into steps: 5e-6 in NeMo's.
    """
    one = runs.pop("auto1")
    assert one["steps"] == 20 and runs
    assert one["metrics"]["dev/loss"] != one["first"]["dev/loss"]
    for name, other in runs.items():
        assert other["first"] == one["first"], name
        assert other["metrics"]["dev/wer"] == one["metrics"]["dev/wer"], name
        assert other["steps"] == 20 and other["state"].keys() == one["state"].keys(), name
        for key, expected in one["state"].items():
            atol = 1e-4 if "fsdp" in name else 1e-5
            torch.testing.assert_close(other["state"][key], expected, rtol=0, atol=atol, msg=f"{name}: {key}")


@pytest.mark.once
def test_whisper(tones_once: Path, tmp_path: Path) -> None:
    from tests.tiny_models import tiny_whisper

    source = tiny_whisper(tmp_path / "tiny", multilingual=False)
    assert_equal_runs(
        run(
            "whisper", source, tones_once, tmp_path, "auto1", "ddp2", "ddp4", "fsdp2", "compiled_ddp2", "compiled_fsdp2"
        )
    )


@pytest.mark.once
@pytest.mark.parametrize(
    ("kind", "runs"),
    [
        ("wav2vec2", ["ddp2", "ddp4", "fsdp2"]),
        ("moonshine_streaming", ["fsdp2"]),  # it has weights that are numbers, which FSDP cannot cut
        ("parakeet_tdt", ["fsdp2"]),  # transformers' own decoding, whose length differs between processes
    ],
)
def test_hugging_face(kind: str, runs: list[str], tones_once: Path, tmp_path: Path) -> None:
    from tests.tiny_hf import write_tiny

    assert_equal_runs(run(kind, write_tiny(tmp_path / "tiny", kind), tones_once, tmp_path, "auto1", *runs))


@pytest.mark.nemo
def test_nemo_ctc(tones_once: Path, tmp_path: Path) -> None:
    from tests.tiny_nemo import tiny_nemo

    source = tiny_nemo(tmp_path / "ctc.nemo", "ctc", vocab_size=128)
    assert_equal_runs(run("nemo", source, tones_once, tmp_path, "auto1", "ddp2", "ddp4", "fsdp2"))
