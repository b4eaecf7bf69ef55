"""Whisper in the layout that transformers.js loads in browsers and Node.

Source of what it expects: its ``models/modeling_utils.js``, and the files that optimum writes for it: two graphs in
``onnx/``, of which the decoder's has a branch for the first step, which makes keys and values of the audio, and one for
the steps after it, which transformers.js gives them back to.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.export.graphs import checks as onnx_checks
from asr_lightning.export.graphs.building import Graph, graph_proto, model_proto, write
from asr_lightning.export.whisper import loading as whisper
from asr_lightning.export.whisper import onnx as onnx_whisper
from asr_lightning.export.whisper.graph import WhisperGraph, floats, integers
from asr_lightning.runtime.formats import FLOAT

SUFFIXES = {"q8": "_quantized", FLOAT: ""}
"""Ends of the names of the files, by its ``dtype``."""
KINDS = ("key", "value")
EMPTY = "no_cross_entries"


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write graphs, configuration, tokenizer and settings of the features to ``target``; q8 or fp32."""
    adapter = whisper.load(source)
    (target / "onnx").mkdir()
    for name, model in models(adapter, variant).items():
        write(model, target / name)
    adapter.model.config.save_pretrained(target)
    adapter.model.generation_config.save_pretrained(target)
    adapter.processor.tokenizer.save_pretrained(target)
    adapter.processor.feature_extractor.save_pretrained(target)
    return onnx_whisper.settings_of(source, adapter).as_json() | {"variant": variant}


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Say what is wrong with the files in ``target``."""
    adapter = whisper.load(source)
    found = onnx_checks.settings_problems(settings, onnx_whisper.settings_of(source, adapter).as_json())
    for name, model in models(adapter, str(settings.get("variant"))).items():
        found += onnx_checks.graph_problems(target / name, model, adapter.model.state_dict())
    configs = {
        "config.json": adapter.model.config.to_json_string(),
        "generation_config.json": adapter.model.generation_config.to_json_string(),
    }
    for name, content in configs.items():
        found += onnx_checks.json_problems(target / name, content)
    return found + onnx_checks.tokenizer_problems(target, adapter)


def models(adapter: WhisperAdapter, variant: str) -> dict[str, onnx.ModelProto]:
    """Return both graphs by the names of their files."""
    parts, suffix = WhisperGraph.of(adapter, variant != FLOAT), SUFFIXES.get(variant, "_quantized")
    return {
        f"onnx/encoder_model{suffix}.onnx": _encoder(parts),
        f"onnx/decoder_model_merged{suffix}.onnx": _decoder(parts),
    }


def _encoder(parts: WhisperGraph) -> onnx.ModelProto:
    graph, name = parts.new(), "input_features"
    graph.rename(parts.encode(graph, name), "last_hidden_state")
    inputs = {name: floats(name, "batch_size", int(parts.config.num_mel_bins), "frames")}
    return model_proto(
        graph, "whisper encoder", inputs, {"last_hidden_state": ("batch_size", "positions", parts.width)}, {}
    )


def _decoder(parts: WhisperGraph) -> onnx.ModelProto:
    graph = parts.new()
    outputs = _outputs(parts)
    branches = {}
    for name in ("then", "else"):
        branch = graph.branch(f"{name}_")
        _body(parts, branch, is_first=name == "else")
        shapes = {f"{name}_{output}": shape for output, shape in outputs.items()}
        branches[f"{name}_branch"] = graph_proto(branch, name, {}, shapes)
    graph.nodes.append(helper.make_node("If", ["use_cache_branch"], list(outputs), name="If", **branches))
    return model_proto(graph, "whisper decoder", _inputs(parts), outputs, {})


def _body(parts: WhisperGraph, graph: Graph, is_first: bool) -> None:
    """Append the decoder. After the first step nobody reads its output for the keys and values of the audio."""
    start = graph.op("Shape", "past_key_values.0.decoder.key", start=2, end=3)
    x, mask = parts.embed(graph, "input_ids", start)
    for number, layer in enumerate(parts.layers):
        normed, *entries = parts.new_entries(graph, x, layer)
        cross, whole = [], []
        for kind, entry in zip(KINDS, entries, strict=True):
            new = graph.heads(entry, parts.num_heads, parts.width)
            whole.append(graph.op("Concat", f"past_key_values.{number}.decoder.{kind}", new, axis=2))
            graph.rename(whole[-1], f"{graph.prefix}present.{number}.decoder.{kind}")
            cross.append(_cross(parts, graph, number, kind, is_first))
        own = parts.attend(graph, normed, f"{layer}.self_attn", _turned(graph, whole[0]), whole[1], mask)
        x, scores = parts.finish_layer(graph, x, own, layer, _turned(graph, cross[0]), cross[1])
        graph.rename(graph.op("Softmax", scores, axis=-1), f"{graph.prefix}cross_attentions.{number}")
    graph.rename(parts.logits(graph, x), f"{graph.prefix}logits")


def _cross(parts: WhisperGraph, graph: Graph, number: int, kind: str, is_first: bool) -> str:
    """Append a layer's keys or values of the audio, ``[B, H, T, D/H]``."""
    output = f"{graph.prefix}present.{number}.encoder.{kind}"
    if is_first:
        layer = f"{parts.layers[number]}.encoder_attn.{kind[0]}_proj"
        made = graph.heads(graph.linear("encoder_hidden_states", layer), parts.num_heads, parts.width)
        graph.rename(made, output)
        return made
    per_head = parts.width // parts.num_heads
    graph.rename(graph.store(EMPTY, np.zeros((0, parts.num_heads, 1, per_head), np.float32)), output)
    return f"past_key_values.{number}.encoder.{kind}"


def _turned(graph: Graph, keys: str) -> str:
    return graph.op("Transpose", keys, perm=[0, 1, 3, 2])


def _inputs(parts: WhisperGraph) -> dict[str, onnx.ValueInfoProto]:
    heads, per_head = parts.num_heads, parts.width // parts.num_heads
    described = [
        integers("input_ids", "batch_size", "decoder_sequence_length"),
        floats("encoder_hidden_states", "batch_size", "encoder_sequence_length", parts.width),
        *(
            floats(f"past_key_values.{number}.{side}.{kind}", "batch_size", heads, f"past_{side}_length", per_head)
            for number in range(len(parts.layers))
            for side in ("decoder", "encoder")
            for kind in KINDS
        ),
        helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]),
    ]
    return {value.name: value for value in described}


def _outputs(parts: WhisperGraph) -> dict[str, tuple[int | str, ...]]:
    layers, heads, per_head = range(len(parts.layers)), parts.num_heads, parts.width // parts.num_heads
    outputs: dict[str, tuple[int | str, ...]] = {"logits": ("batch_size", 1, int(parts.config.vocab_size))}
    for number in layers:
        for side in ("decoder", "encoder"):
            for kind in KINDS:
                outputs[f"present.{number}.{side}.{kind}"] = (f"{side}_batch_size", heads, f"{side}_length", per_head)
    queries = ("batch_size", heads, "decoder_sequence_length", "encoder_sequence_length")
    return outputs | {f"cross_attentions.{number}": queries for number in layers}
