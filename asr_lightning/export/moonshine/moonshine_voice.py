"""Moonshine for its makers' own runtime on phones and computers: two ``.ort`` files and ``tokenizer.bin``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from asr_lightning.adapters.moonshine import MoonshineAdapter
from asr_lightning.errors import ModelError
from asr_lightning.export.moonshine import graphs as moonshine_graphs
from asr_lightning.export.moonshine import loading as moonshine
from asr_lightning.runtime.formats import FLOAT
from asr_lightning.runtime.moonshine.moonshine_voice import ARCHITECTURES, DECODER, ENCODER, TOKENIZER

ONE_BYTE = 128
"""Lengths from here on are written in two bytes, of which the first has the low seven bits and its top bit set."""


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write the files of ``variant`` into ``target``."""
    adapter = moonshine.load(source)
    settings = moonshine.settings_of(adapter)
    _require_architecture(adapter)
    moonshine.require_ids(adapter, "Moonshine's runtime")
    moonshine_graphs.write(adapter.model, target, variant != FLOAT)
    for graph, name in ((moonshine_graphs.ENCODER, ENCODER), (moonshine_graphs.DECODER, DECODER)):
        _convert_graph(target / graph, target / name)
    (target / TOKENIZER).write_bytes(packed(moonshine.pieces_of(adapter)))
    return {**settings.as_json(), "variant": variant}


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the files in ``target``."""
    adapter = moonshine.load(source)
    tokenizer = target / TOKENIZER
    read = unpacked(tokenizer.read_bytes()) if tokenizer.is_file() else None
    return [
        *moonshine.token_problems(tokenizer, read, adapter),
        *moonshine.graph_problems(adapter, target, ENCODER, DECODER, settings.get("variant") != FLOAT),
    ]


def _require_architecture(adapter: MoonshineAdapter) -> None:
    settings = moonshine.settings_of(adapter)
    shape = settings.layers, settings.heads, settings.head_width
    if shape not in ARCHITECTURES:
        raise ModelError(
            f"{adapter.source} has {settings.layers} layers with {settings.heads} heads of {settings.head_width}, and "
            "Moonshine's runtime knows the shapes of tiny and base only: take --to onnx"
        )


def _convert_graph(path: Path, target: Path) -> None:
    """Write the graph in ``path`` as onnxruntime's own format to ``target``, and remove ``path``.

    Nodes are joined as far as every processor allows; joining further would fit this one alone.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry("session.save_model_format", "ORT")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    path.unlink()


def packed(pieces: Sequence[bytes]) -> bytes:
    """Return ``pieces`` as ``tokenizer.bin`` has them: each with its length before it."""
    data = bytearray()
    for piece in pieces:
        size = len(piece)
        data += bytes([size]) if size < ONE_BYTE else bytes([ONE_BYTE + size % ONE_BYTE, size // ONE_BYTE])
        data += piece
    return bytes(data)


def unpacked(data: bytes) -> list[bytes] | None:
    """Return the pieces in ``data``, a ``tokenizer.bin``; None if it ends within one."""
    pieces: list[bytes] = []
    at = 0
    while at < len(data):
        size, at = data[at], at + 1
        if size >= ONE_BYTE:
            if at == len(data):
                return None
            size, at = size - ONE_BYTE + ONE_BYTE * data[at], at + 1
        if at + size > len(data):
            return None
        pieces.append(data[at : at + size])
        at += size
    return pieces
