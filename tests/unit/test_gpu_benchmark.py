"""The GPU benchmark's own arithmetic, which must be right before anyone has a GPU; and the whole of it where one is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.training.groups import train_only
from tests.tiny_models import clip

pytestmark = pytest.mark.once
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
RUN = {
    "steps_per_second": 12.345, "clips_per_second": 197.5, "flops_per_second": 2e12, "first_step_seconds": 0.5,
    "ready_seconds": 9.0, "warm_seconds": 20.0, "cold_seconds": 29.0, "peak_memory_mb": 4321.0, "peak": 1e14,
    "peak_source": "the data sheet",
}  # fmt: skip


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import one another by bare name."""
    monkeypatch.syspath_prepend(BENCHMARKS)


def job(**changes: Any) -> Any:
    from gpu_arms import Job

    plain = {"arm": "ours", "shape": "tiny", "model": "", "clips": "", "device": "cpu", "steps": 4, "batch_size": 2}
    return Job(**plain | {"workers": 0} | changes)


def test_the_formula_is_what_pytorch_counts_on_a_clip_without_padding() -> None:
    """The plain attention is taken, since the counter knows none of the CPU's own. 320 frames fill their bucket."""
    from flops import SHAPES, training_flops

    adapter = WhisperAdapter("openai/whisper-tiny.en", margin_seconds=0.0)
    train_only(adapter, ["encoder"])
    adapter.model.train()
    utterance = clip(3.2, "the quick brown fox jumps over the lazy dog and runs away")
    tokens = len(adapter.processor.tokenizer(f" {utterance.text}", add_special_tokens=False).input_ids)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        adapter.loss(adapter.collator()([utterance])).loss.backward()
    flops = training_flops(SHAPES["tiny"], utterance.seconds, tokens)
    assert flops == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("name", ["tiny", "base", "small"])
def test_shapes_have_the_parameters_of_openais(name: str) -> None:
    """Millions, as OpenAI's table has them: 39, 74, 244; the embedding counts once, sinusoids too."""
    from flops import SHAPES
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    changes = SHAPES[name].changes()
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(WhisperConfig(**changes))
    every = sum(p.numel() for p in model.model.parameters()) / 1e6
    assert every == pytest.approx({"tiny": 39, "base": 74, "small": 244}[name], rel=0.04)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Tesla T4", 65e12),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200 NVL", None),
        ("NVIDIA L40", None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_peaks_are_of_the_very_card(name: str, peak: float | None) -> None:
    from flops import data_sheet_peak

    assert data_sheet_peak(name) == peak


def test_a_row_of_the_table() -> None:
    from gpu import HEADER, row

    line = row("asr_lightning, true length", RUN)
    assert len(line) == len(HEADER)
    assert " ".join(line.split()).endswith("12.35 197.5 2.00% 0.50 s 9.0 s 20.0 s 29.0 s 4321 MB")


def test_runs_are_joined_by_their_median_and_the_highest_peak() -> None:
    from gpu import median_of

    joined = median_of([RUN, RUN | {"peak": 3e14, "clips_per_second": 198.5}])
    assert (joined["clips_per_second"], joined["peak"]) == (198.0, 3e14)


def test_the_watch_leaves_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step of 5 s, then three of 1 s; the third step's batch has one clip."""
    import gpu_arms

    now = iter([100.0, 105.0, 105.0, 108.0])
    monkeypatch.setattr(gpu_arms.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(gpu_arms.time, "time", lambda: 50.0)
    monkeypatch.setattr(gpu_arms, "peak_of", lambda device: (1e9, "a test"))
    watch = gpu_arms.Watch(job(started=43.0))
    for clips in ("ab", "cd", "e", "fg"):
        watch.starts()
        watch.ends(clips)
    figures = watch.found(lambda clips: [6.0 for _ in clips])
    assert figures["first_step_seconds"] == 5.0
    assert (figures["steps_per_second"], figures["clips_per_second"]) == (1.0, pytest.approx(5 / 3))
    assert figures["flops_per_second"] == 10.0
    assert (figures["ready_seconds"], figures["warm_seconds"], figures["cold_seconds"]) == (7.0, 8.0, 15.0)


@pytest.mark.gpu
def test_the_whole_benchmark_on_a_gpu(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--device", "cuda", "--quick", "--output", str(output)]
    subprocess.run(command, check=True)
    results = json.loads(output.read_text())
    ours, peer = results["medians"]["ours"], results["medians"]["peer"]
    assert results["about"]["precision"] in ("bf16-mixed", "16-mixed")
    assert ours["clips_per_second"] > peer["clips_per_second"]
    assert 0 < ours["flops_per_second"] < ours["peak"]
