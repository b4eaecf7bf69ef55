"""Whisper as one pair of ONNX graphs of any length, which onnxruntime and sherpa-onnx read.

Source of what sherpa-onnx expects: its ``offline-whisper-model.cc`` and ``scripts/whisper/export-onnx.py``. It passes
the keys and values of the audio from one graph to the other without a look at them, so that they have the order in
which the decoder multiplies them. It passes those of the text as a buffer of all positions; ours is empty at first, and
grows. It knows neither suppressed tokens nor the silence that features are padded with: both are part of the graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from asr_lightning.adapters import saved
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.export.graphs import checks as onnx_checks
from asr_lightning.export.graphs.building import Graph, model_proto, write
from asr_lightning.export.whisper import loading as whisper
from asr_lightning.export.whisper import sherpa_tokens
from asr_lightning.export.whisper.graph import WhisperGraph, floats, integers
from asr_lightning.runtime.formats import FLOAT
from asr_lightning.runtime.whisper.settings import WhisperSettings

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write graphs, tokenizer and the tokens for sherpa-onnx to ``target``; ``variant`` is ``int8`` or ``fp32``."""
    adapter = whisper.load(source)
    settings = settings_of(source, adapter)
    for name, model in models(adapter, settings, variant != FLOAT).items():
        write(model, target / name)
    adapter.processor.tokenizer.save_pretrained(target)
    adapter.processor.feature_extractor.save_pretrained(target)
    sherpa_tokens.write(adapter.processor.tokenizer, settings.eos, target)
    return settings.as_json() | {"variant": variant}


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Say what is wrong with the files in ``target``."""
    adapter = whisper.load(source)
    expected = settings_of(source, adapter)
    found = onnx_checks.settings_problems(settings, expected.as_json())
    for name, model in models(adapter, expected, settings.get("variant") != FLOAT).items():
        found += onnx_checks.graph_problems(target / name, model, adapter.model.state_dict())
    found += onnx_checks.tokenizer_problems(target, adapter)
    return found + sherpa_tokens.problems(adapter.processor.tokenizer, expected.eos, target)


def settings_of(source: Path, adapter: WhisperAdapter) -> WhisperSettings:
    """Return how the model reads; where it does not say which heads follow the audio, all of its upper half do.

    Source: openai/whisper ``model.py``.
    """
    settings = whisper.settings_of(adapter, saved.record(source) is not None)
    config = adapter.model.config
    layers, heads = config.decoder_layers, config.decoder_attention_heads
    upper = tuple((layer, head) for layer in range(layers // 2, layers) for head in range(heads))
    return replace(settings, alignment_heads=settings.alignment_heads or upper)


def models(adapter: WhisperAdapter, settings: WhisperSettings, is_quantized: bool) -> dict[str, onnx.ModelProto]:
    """Return both graphs by the names of their files."""
    parts, metadata = WhisperGraph.of(adapter, is_quantized), sherpa_tokens.metadata(adapter, settings)
    return {ENCODER: _encoder(parts, metadata), DECODER: _decoder(parts, settings, metadata)}


def _encoder(parts: WhisperGraph, metadata: Mapping[str, str]) -> onnx.ModelProto:
    graph, heads, width = parts.new(), parts.num_heads, parts.width
    hidden = parts.encode(graph, _with_silence(graph, "mel"))
    cross = {"n_layer_cross_k": ("k_proj", (0, 2, 3, 1)), "n_layer_cross_v": ("v_proj", (0, 2, 1, 3))}
    for name, (projection, perm) in cross.items():
        layers = [
            graph.heads(graph.linear(hidden, f"{layer}.encoder_attn.{projection}"), heads, width, perm)
            for layer in parts.layers
        ]
        graph.rename(_stack(graph, layers), name)
    inputs = {"mel": floats("mel", "n_audio", int(parts.config.num_mel_bins), "frames")}
    return model_proto(graph, "whisper encoder", inputs, _cross_shapes(parts), metadata)


def _cross_shapes(parts: WhisperGraph) -> dict[str, tuple[int | str, ...]]:
    layers, heads, per_head = len(parts.layers), parts.num_heads, parts.width // parts.num_heads
    return {
        "n_layer_cross_k": (layers, "n_audio", heads, per_head, "positions"),
        "n_layer_cross_v": (layers, "n_audio", heads, "positions", per_head),
    }


def _with_silence(graph: Graph, mel: str) -> str:
    """Append the replacement of frames that are zero in every bin, which sherpa-onnx pads with, by silence.

    Zero is 80 dB above the silence that Whisper is trained with. Ours has that silence already. For the values see
    ``adapters/whisper/features.py``; where zeros are the largest value, the silence is -1.5 anyway.
    """
    largest = graph.op("ReduceMax", mel, axes=[1, 2], keepdims=1)
    silence = graph.op("Max", graph.op("Sub", largest, graph.number(2.0)), graph.number(-1.5))
    loudest = graph.op("ReduceMax", graph.op("Abs", mel), axes=[1], keepdims=1)
    return graph.op("Where", graph.op("Equal", loudest, graph.number(0.0)), silence, mel)


def _decoder(parts: WhisperGraph, settings: WhisperSettings, metadata: Mapping[str, str]) -> onnx.ModelProto:
    graph, layers = parts.new(), len(parts.layers)
    x, mask = parts.embed(graph, "tokens", "offset")
    first, end = graph.numbers(0), graph.op("Add", "offset", graph.op("Shape", "tokens", start=1, end=2))
    kinds = ("k", "v")
    past = {kind: graph.slice(f"in_n_layer_self_{kind}_cache", first, "offset", axis=2) for kind in kinds}
    past_layers, cross = {kind: _layers(graph, past[kind], layers) for kind in kinds}, {}
    for kind in kinds:
        cross[kind] = _layers(graph, f"n_layer_cross_{kind}", layers)
    new: dict[str, list[str]] = {"k": [], "v": []}
    attentions = []
    for number, layer in enumerate(parts.layers):
        normed, *entries = parts.new_entries(graph, x, layer)
        whole = []
        for kind, entry, perm in zip(kinds, entries, ((0, 2, 3, 1), (0, 2, 1, 3)), strict=True):
            new[kind].append(entry)
            joined = graph.op("Concat", past_layers[kind][number], entry, axis=1)
            whole.append(graph.heads(joined, parts.num_heads, parts.width, perm))
        own = parts.attend(graph, normed, f"{layer}.self_attn", whole[0], whole[1], mask)
        x, scores = parts.finish_layer(graph, x, own, layer, cross["k"][number], cross["v"][number])
        heads = [head for of_layer, head in settings.alignment_heads if of_layer == number]
        if heads:
            attentions.append(graph.op("Gather", scores, graph.store(f"heads_{number}", np.array(heads)), axis=1))
    graph.rename(_permitted(graph, parts.logits(graph, x), settings, int(parts.config.vocab_size)), "logits")
    for kind in kinds:
        rest = graph.slice(f"in_n_layer_self_{kind}_cache", end, graph.numbers(2**31 - 1), axis=2)
        cache = graph.op("Concat", past[kind], _stack(graph, new[kind]), rest, axis=2)
        graph.rename(cache, f"out_n_layer_self_{kind}_cache")
    graph.rename(graph.op("Concat", *attentions, axis=1), "cross_attention_weights")
    return _decoder_model(graph, parts, len(settings.alignment_heads), metadata)


def _decoder_model(graph: Graph, parts: WhisperGraph, num_heads: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
    caches = [f"n_layer_self_{kind}_cache" for kind in ("k", "v")]
    layers, width = len(parts.layers), parts.width
    inputs = {"tokens": integers("tokens", "n_text", "n_tokens")}
    inputs |= {f"in_{name}": floats(f"in_{name}", layers, "n_text", "cached", width) for name in caches}
    inputs |= {name: floats(name, *shape) for name, shape in _cross_shapes(parts).items()}
    inputs["offset"] = integers("offset", 1)
    outputs: dict[str, tuple[int | str, ...]] = {"logits": ("n_text", 1, int(parts.config.vocab_size))}
    outputs |= {f"out_{name}": (layers, "n_text", "now_cached", width) for name in caches}
    outputs["cross_attention_weights"] = ("n_text", num_heads, "n_tokens", "positions")
    return model_proto(graph, "whisper decoder", inputs, outputs, metadata)


def _layers(graph: Graph, x: str, number: int) -> list[str]:
    """Append the division of ``x`` into its layers."""
    return [graph.op("Squeeze", part, graph.numbers(0)) for part in graph.ops("Split", x, num_outputs=number, axis=0)]


def _stack(graph: Graph, layers: list[str]) -> str:
    return graph.op("Concat", *(graph.op("Unsqueeze", layer, graph.numbers(0)) for layer in layers), axis=0)


def _permitted(graph: Graph, logits: str, settings: WhisperSettings, vocabulary: int) -> str:
    """Append the suppression of tokens that are never written, or not written first."""
    suppress, begin = np.zeros((2, vocabulary), bool)
    suppress[list(settings.suppress)] = True
    begin[list(settings.begin_suppress)] = True
    is_first = graph.op("Equal", "offset", graph.numbers(0))
    not_now = graph.op("And", graph.store("begin_suppress", begin), is_first)
    forbidden = graph.op("Or", graph.store("suppress", suppress), not_now)
    return graph.op("Where", forbidden, graph.number(-np.inf), logits)
