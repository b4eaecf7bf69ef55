"""The same batches give the same steps, and the same weights the same figures, for any number of processes.

Four batches of two clips in each step: accumulated by one process, shared by two or four. Nine training clips make five
batches, so the last step of each epoch has one batch, which four processes fill up with three repeats. Dropout, masks
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
    """Each run beside that of one process: figures of equal weights to the last digit, weights after 20 steps nearly.

    Gradients are summed in another order: by 20 steps that is 1e-7 in most weights. The bias of an attention key has
    no gradient but rounding, which Adam makes steps of: 5e-6 in NeMo's.
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
