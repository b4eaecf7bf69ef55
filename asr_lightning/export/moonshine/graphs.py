"""Moonshine's encoder and decoder as graphs of ONNX, with the weights of transformers' network.

The names of inputs and outputs are those of Moonshine's own files, which sherpa-onnx, moonshine-voice and our own
runtime read alike: one decoder for the first token and the later ones, told apart by ``use_cache_branch``. Graphs read
one clip without padding, so that no mask is needed. Source: transformers ``modeling_moonshine.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

from asr_lightning.export.graphs import files as onnx_files

ENCODER, DECODER = "encoder_model.onnx", "decoder_model_merged.onnx"
SIDES, PARTS = ("decoder", "encoder"), ("key", "value")


def write(network: Any, folder: Path, is_rounded: bool) -> None:
    """Write both graphs of ``network``, a ``MoonshineForConditionalGeneration``, into ``folder``."""
    encoder, decoder = folder / ENCODER, folder / DECODER
    onnx_files.trace(
        _Encoder(network.model.encoder),
        encoder,
        {"input_values": torch.zeros(1, 16_000)},
        ["last_hidden_state"],
        {"input_values": {1: "samples"}, "last_hidden_state": {1: "frames"}},
    )
    cross, step = folder / "cross.onnx", folder / "step.onnx"
    _trace_decoder(network, cross, step)
    if is_rounded:
        for path in (encoder, cross, step):
            onnx_files.quantize(path)
    onnx_files.save(_merged(onnx.load(str(cross)), onnx.load(str(step)), network.config), decoder)
    for path in (cross, step):
        path.unlink()


def cache_names(layers: int, sides: Sequence[str] = SIDES) -> list[str]:
    """Return the ends of the names of keys and values, in the order of the inputs."""
    return [f"{layer}.{side}.{part}" for layer in range(layers) for side in sides for part in PARTS]


class _Encoder(nn.Module):
    """Samples ``[1, T]`` to hidden states ``[1, F, D]``."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, samples: Tensor) -> Tensor:
        encoder = self.encoder
        states = encoder.groupnorm(torch.tanh(encoder.conv1(samples[:, None])))
        states = nn.functional.gelu(encoder.conv3(nn.functional.gelu(encoder.conv2(states)))).transpose(1, 2)
        turns = _turns(encoder.rotary_emb, torch.arange(states.shape[1]))
        for layer in encoder.layers:
            normed = layer.input_layernorm(states)
            heads = [_heads(part(normed), layer.self_attn) for part in _projections(layer.self_attn)]
            query, key = (_turned(part, turns) for part in heads[:2])
            states = states + _attended(layer.self_attn, query, key, heads[2])
            states = states + layer.mlp(layer.post_attention_layernorm(states))
        result: Tensor = encoder.layer_norm(states)
        return result


class _CrossKeys(nn.Module):
    """Hidden states ``[1, F, D]`` to the keys and values ``[1, H, F, d]`` of each layer's cross attention."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.attentions = nn.ModuleList(layer.encoder_attn for layer in decoder.layers)

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        return tuple(
            _heads(part(hidden), attention) for attention in self.attentions for part in _projections(attention)[1:]
        )


class _Step(nn.Module):
    """Tokens ``[1, U]`` and all keys and values to logits ``[1, U, V]`` and the decoder's new keys and values."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.decoder = network.model.decoder
        self.embedding = onnx_files.SharedEmbedding(self.decoder.embed_tokens.weight)
        is_shared = torch.equal(network.proj_out.weight, self.decoder.embed_tokens.weight)
        self.head = self.embedding if is_shared else network.proj_out

    def forward(self, ids: Tensor, *cache: Tensor) -> tuple[Tensor, ...]:
        past, length = cache[0].shape[2], ids.shape[1]
        places = torch.arange(length) + past
        is_later = torch.arange(length + past)[None] > places[:, None]
        mask = torch.zeros(1).masked_fill(is_later, -1e9)
        turns = _turns(self.decoder.rotary_emb, places)
        states, kept = self.embedding.embed(ids), []
        for number, layer in enumerate(self.decoder.layers):
            old_key, old_value, cross_key, cross_value = cache[4 * number : 4 * number + 4]
            normed = layer.input_layernorm(states)
            heads = [_heads(part(normed), layer.self_attn) for part in _projections(layer.self_attn)]
            key = torch.cat([old_key, _turned(heads[1], turns)], dim=2)
            value = torch.cat([old_value, heads[2]], dim=2)
            states = states + _attended(layer.self_attn, _turned(heads[0], turns), key, value, mask)
            query = _heads(layer.encoder_attn.q_proj(layer.post_attention_layernorm(states)), layer.encoder_attn)
            states = states + _attended(layer.encoder_attn, query, cross_key, cross_value)
            states = states + layer.mlp(layer.final_layernorm(states))
            kept += [key, value]
        return self.head(self.decoder.norm(states)), *kept


def _projections(attention: Any) -> tuple[Any, Any, Any]:
    return attention.q_proj, attention.k_proj, attention.v_proj


def _heads(states: Tensor, attention: Any) -> Tensor:
    """Divide ``[B, T, H * d]`` into heads ``[B, H, T, d]``."""
    return states.reshape(states.shape[0], states.shape[1], -1, attention.head_dim).transpose(1, 2)


def _attended(attention: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = query @ key.transpose(2, 3) * attention.scaling
    weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
    mixed = (weights @ value).transpose(1, 2)
    result: Tensor = attention.o_proj(mixed.reshape(mixed.shape[0], mixed.shape[1], -1))
    return result


def _turns(rotary: Any, places: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[T, r]`` of the positions ``places`` ``[T]``."""
    angles = places[:, None].float() * rotary.inv_freq.float()
    return torch.cos(angles) * rotary.attention_scaling, torch.sin(angles) * rotary.attention_scaling


def _turned(heads: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Turn neighbouring entries of ``heads`` ``[B, H, T, d]``, two by two, as far as there are angles."""
    cos, sin = turns
    size = 2 * cos.shape[-1]
    even, odd = heads[..., 0:size:2], heads[..., 1:size:2]
    turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
    return torch.cat([turned, heads[..., size:]], dim=-1)


def _trace_decoder(network: Any, cross: Path, step: Path) -> None:
    decoder, config = network.model.decoder, network.config
    frames = {2: "frames"}
    encoder_names = cache_names(len(decoder.layers), ("encoder",))
    onnx_files.trace(
        _CrossKeys(decoder),
        cross,
        {"encoder_hidden_states": torch.zeros(1, 40, config.hidden_size)},
        [f"new.{name}" for name in encoder_names],
        {"encoder_hidden_states": {1: "frames"}, **{f"new.{name}": frames for name in encoder_names}},
    )
    attention = decoder.layers[0].self_attn
    heads = decoder.layers[0].self_attn.k_proj.out_features // attention.head_dim
    shapes = {"decoder": (1, heads, 3, attention.head_dim), "encoder": (1, heads, 40, attention.head_dim)}
    names = cache_names(len(decoder.layers))
    caches = {f"cache.{name}": torch.zeros(shapes[name.split(".")[1]]) for name in names}
    kept = [f"present.{name}" for name in cache_names(len(decoder.layers), ("decoder",))]
    lengths = {"decoder": {2: "past"}, "encoder": frames}
    onnx_files.trace(
        _Step(network),
        step,
        {"input_ids": torch.ones(1, 2, dtype=torch.long), **caches},
        ["logits", *kept],
        {
            "input_ids": {1: "tokens"},
            "logits": {1: "tokens"},
            **{f"cache.{name}": lengths[name.split(".")[1]] for name in names},
            **{name: {2: "past + tokens"} for name in kept},
        },
    )


def _merged(cross: onnx.ModelProto, step: onnx.ModelProto, config: Any) -> onnx.ModelProto:
    """Join both graphs: an ``If`` takes the cache that was given, or an empty one and the keys of the audio."""
    names = [value.name.removeprefix("cache.") for value in step.graph.input if value.name.startswith("cache.")]
    own = {value.name: value for value in step.graph.input}
    shape = [dim.dim_value for dim in own[f"cache.{names[0]}"].type.tensor_type.shape.dim]
    _prefix(cross.graph)
    taken = [helper.make_tensor_value_info(f"taken.{name}", TensorProto.FLOAT, None) for name in names]
    kept = helper.make_graph(
        [helper.make_node("Identity", [f"past_key_values.{name}"], [f"taken.{name}"]) for name in names],
        "kept", [], taken,
    )  # fmt: skip
    made = [helper.make_tensor_value_info(f"made.{name}", TensorProto.FLOAT, None) for name in names]
    fresh = helper.make_graph([*cross.graph.node, *_fresh(names, shape)], "fresh", [], made)
    choice = helper.make_node(
        "If", ["use_cache_branch"], [f"cache.{name}" for name in names], then_branch=kept, else_branch=fresh
    )
    given = [_renamed(own[f"cache.{name}"], f"past_key_values.{name}") for name in names]
    ends = {value.name: value for value in step.graph.output}
    results = [ends["logits"]]
    passed = []
    for name in names:
        if f"present.{name}" not in ends:
            passed.append(helper.make_node("Identity", [f"cache.{name}"], [f"present.{name}"]))
            ends[f"present.{name}"] = _renamed(own[f"cache.{name}"], f"present.{name}")
        results.append(ends[f"present.{name}"])
    branch = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    graph = helper.make_graph(
        [choice, *step.graph.node, *passed],
        "decoder",
        [own["input_ids"], cross.graph.input[0], *given, branch],
        results,
        [*cross.graph.initializer, *step.graph.initializer],
    )
    return helper.make_model(graph, opset_imports=step.opset_import, ir_version=step.ir_version)


def _fresh(names: Sequence[str], shape: Sequence[int]) -> Iterator[onnx.NodeProto]:
    """The nodes that name an empty cache of the decoder, and the new keys and values of the encoder's frames."""
    empty = helper.make_tensor("empty", TensorProto.FLOAT, [1, shape[1], 0, shape[3]], [])
    yield helper.make_node("Constant", [], ["empty"], value=empty)
    for name in names:
        source = f"new.{name}" if ".encoder." in name else "empty"
        yield helper.make_node("Identity", [source], [f"made.{name}"])


def _prefix(graph: onnx.GraphProto) -> None:
    """Give everything inside ``graph`` names that the other graph does not have."""
    outside = {value.name for value in (*graph.input, *graph.output)} | {""}

    def named(name: str) -> str:
        return name if name in outside else f"cross.{name}"

    for node in graph.node:
        node.name = f"cross.{node.name}"
        node.input[:] = [named(name) for name in node.input]
        node.output[:] = [named(name) for name in node.output]
    for tensor in graph.initializer:
        tensor.name = named(tensor.name)


def _renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    copy.name = name
    return copy
