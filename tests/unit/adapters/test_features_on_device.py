"""Features made where the batch is: equal to upstream's to the last bit, in float32 whatever surrounds them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from asr_lightning.adapters.hf.labels import extract
from asr_lightning.adapters.whisper import WhisperAdapter
from tests.tiny_hf import load_tiny, write_tiny
from tests.tiny_models import clip, tiny_whisper

CLIPS = [clip(3.2, seed=1), clip(1.0, seed=2), clip(1.73, seed=3)]
WAVES = [one.waveform.numpy() for one in CLIPS]


def whisper(folder: Path) -> tuple[Callable[[Any], Tensor], Any, Tensor]:
    """Ours, its batch, and upstream's features of as many samples."""
    adapter = WhisperAdapter(str(tiny_whisper(folder, multilingual=False)), margin_seconds=0.0)
    extractor = adapter.processor.feature_extractor
    frames = math.ceil(len(WAVES[0]) / extractor.hop_length)
    length = (frames + 2) * extractor.hop_length
    options = {"sampling_rate": 16_000, "padding": "max_length", "max_length": length, "return_tensors": "pt"}
    theirs = extractor(WAVES, **options).input_features[..., :frames]
    return adapter.features, adapter.collator()(CLIPS), theirs


def parakeet(folder: Path) -> tuple[Callable[[Any], Tensor], Any, Tensor]:
    adapter = load_tiny(write_tiny(folder, "parakeet_ctc"), "parakeet_ctc")
    theirs = extract(adapter.extractor, WAVES)
    ours = adapter.inputs(batch := adapter.collator()(CLIPS))
    assert torch.equal(ours["attention_mask"], theirs["attention_mask"].long())
    assert torch.equal(batch.input_lengths, theirs["attention_mask"].sum(-1))
    return lambda batch: adapter.inputs(batch)["input_features"], batch, theirs["input_features"]


@pytest.mark.parametrize("family", [whisper, parakeet])
def test_features_equal_upstreams(tmp_path: Path, family: Callable[..., Any]) -> None:
    features, batch, theirs = family(tmp_path / "model")
    assert torch.equal(features(batch)[..., : theirs.shape[-1]], theirs)


@pytest.mark.parametrize("family", [whisper, parakeet])
def test_autocast_and_tf32_do_not_reach_them(tmp_path: Path, family: Callable[..., Any]) -> None:
    features, batch, _ = family(tmp_path / "model")
    expected = features(batch)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(features(batch), expected)
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(precision)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU; equality on a CPU is tested above")
@pytest.mark.parametrize("family", [whisper, parakeet])
def test_a_gpus_features_are_those_of_the_cpu(tmp_path: Path, family: Callable[..., Any]) -> None:
    features, batch, _ = family(tmp_path / "model")
    torch.testing.assert_close(features(batch.to("cuda")).cpu(), features(batch), atol=1e-4, rtol=0)
