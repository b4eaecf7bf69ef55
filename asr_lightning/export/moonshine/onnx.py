"""Moonshine for onnxruntime: encoder, decoder and ``tokenizer.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asr_lightning.export.graphs import probes
from asr_lightning.export.moonshine import graphs as moonshine_graphs
from asr_lightning.export.moonshine import loading as moonshine
from asr_lightning.runtime.formats import FLOAT
from asr_lightning.runtime.moonshine.onnx import TOKENIZER


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write the files of ``variant`` into ``target``."""
    adapter = moonshine.load(source)
    moonshine_graphs.write(adapter.model, target, variant != FLOAT)
    adapter.tokenizer.backend_tokenizer.save(str(target / TOKENIZER))
    return {**moonshine.settings_of(adapter).as_json(), "variant": variant}


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the files in ``target``."""
    adapter = moonshine.load(source)
    expected = adapter.tokenizer.backend_tokenizer.to_str()
    tokenizer = target / TOKENIZER
    found = [f"{TOKENIZER} is missing"] if not tokenizer.is_file() else []
    if not found and not probes.same_json(expected, tokenizer):
        found = [f"{TOKENIZER} differs from that of the model"]
    return [
        *found,
        *moonshine.graph_problems(adapter, target, is_rounded=settings.get("variant") != FLOAT),
    ]
