"""Converters that spoil what the real one writes, and find nothing wrong with it. ``test_run.py`` names them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from asr_lightning.adapters import saved
from asr_lightning.export.whisper import ctranslate2


def convert_other_weights(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Convert weights that the model does not have, which its texts alone can show."""
    adapter = saved.load(source)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
    with tempfile.TemporaryDirectory() as other:
        adapter.save(Path(other))
        return ctranslate2.convert(Path(other), target, variant)


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    return []


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """What the environment says: other weights, a crash, or no end."""
    if os.environ["SPOIL"] == "weights":
        return convert_other_weights(source, target, variant)
    if os.environ["SPOIL"] == "hang":
        time.sleep(600)
    (target / "half.bin").write_bytes(b"half")
    os.abort()
