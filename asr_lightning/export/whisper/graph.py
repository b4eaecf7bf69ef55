"""Whisper as ONNX graphs of any length, whose building blocks the formats share. Source: transformers 5.23."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.errors import ModelError
from asr_lightning.export.graphs.building import Graph, Weights

EMBEDDING = "model.decoder.embed_tokens.weight"
OUTPUT_LAYER = "proj_out.weight"
"""It is the embedding under another name."""


class Attended(NamedTuple):
    """Result of an attention: its output ``[B, U, D]``, and the scores before softmax ``[B, H, U, T]``."""

    output: str
    scores: str


@dataclass(frozen=True)
class WhisperGraph:
    """The parts of a Whisper, to be appended to a graph.

    Attributes:
        weights: Weights of the network.
        config: Its configuration.
        is_quantized: Whether matrices are stored as int8.
    """

    weights: Weights
    config: Any
    is_quantized: bool

    @classmethod
    def of(cls, adapter: WhisperAdapter, is_quantized: bool) -> WhisperGraph:
        """Take the network of ``adapter``.

        Raises:
            ModelError: It is no Whisper as OpenAI's are.
        """
        config = adapter.model.config
        weights = weights_of(adapter)
        if config.activation_function != "gelu" or config.scale_embedding:
            raise ModelError("this Whisper has another activation or a scaled embedding, which its graphs do not have")
        return cls(weights, config, is_quantized)

    def new(self) -> Graph:
        """Return an empty graph over the weights."""
        return Graph(self.weights, self.is_quantized)

    @property
    def width(self) -> int:
        """Width of the hidden states."""
        return int(self.config.d_model)

    @property
    def num_heads(self) -> int:
        """Number of heads of the decoder."""
        return int(self.config.decoder_attention_heads)

    @property
    def layers(self) -> list[str]:
        """Names of the decoder's layers."""
        return [f"model.decoder.layers.{number}" for number in range(self.config.decoder_layers)]

    def encode(self, graph: Graph, mel: str) -> str:
        """Append the encoder: ``mel`` ``[B, M, F]`` to hidden states ``[B, F/2, D]``, rounded up."""
        x = mel
        for name, strides in (("conv1", [1]), ("conv2", [2])):
            layer = f"model.encoder.{name}"
            weight, bias = graph.weight(f"{layer}.weight"), graph.weight(f"{layer}.bias")
            x = graph.gelu(graph.op("Conv", x, weight, bias, kernel_shape=[3], pads=[1, 1], strides=strides))
        x = graph.op("Transpose", x, perm=[0, 2, 1])
        length = graph.op("Shape", x, start=1, end=2)
        positions = graph.weight("model.encoder.embed_positions.weight")
        x = graph.op("Add", x, graph.slice(positions, graph.numbers(0), length, axis=0))
        for number in range(self.config.encoder_layers):
            x = self._encoder_layer(graph, x, f"model.encoder.layers.{number}")
        return graph.norm(x, "model.encoder.layer_norm")

    def _encoder_layer(self, graph: Graph, x: str, layer: str) -> str:
        heads, width = int(self.config.encoder_attention_heads), self.width
        normed, attention = graph.norm(x, f"{layer}.self_attn_layer_norm"), f"{layer}.self_attn"
        queries = self._queries(graph, normed, attention, heads)
        keys = graph.heads(graph.linear(normed, f"{attention}.k_proj"), heads, width, (0, 2, 3, 1))
        values = graph.heads(graph.linear(normed, f"{attention}.v_proj"), heads, width)
        mean = graph.attend(graph.op("MatMul", queries, keys), values, width)
        return self._feed_forward(graph, graph.op("Add", x, graph.linear(mean, f"{attention}.out_proj")), layer)

    def embed(self, graph: Graph, tokens: str, start: str) -> tuple[str, str]:
        """Append the embedding of ``tokens`` ``[B, U]`` from position ``start`` ``[1]`` on.

        Returns the hidden states ``[B, U, D]``, and the mask ``[U, start + U]`` to add to the scores.
        """
        end = graph.op("Add", start, graph.op("Shape", tokens, start=1, end=2))
        positions = graph.slice(graph.weight("model.decoder.embed_positions.weight"), start, end, axis=0)
        x = graph.op("Add", graph.rows(EMBEDDING, tokens), positions)
        zero, one = graph.store("int64_scalar_0", np.array(0)), graph.store("int64_scalar_1", np.array(1))
        keys = graph.op("Range", zero, graph.op("Squeeze", end), one)
        queries = graph.op("Unsqueeze", graph.slice(keys, start, end, axis=0), graph.numbers(1))
        later = graph.op("Greater", keys, queries)
        return x, graph.op("Where", later, graph.number(-np.inf), graph.number(0.0))

    def new_entries(self, graph: Graph, x: str, layer: str) -> tuple[str, str, str]:
        """Append the projections of self attention: the normed ``x``, and its keys and values ``[B, U, D]``."""
        normed = graph.norm(x, f"{layer}.self_attn_layer_norm")
        names = (f"{layer}.self_attn.k_proj", f"{layer}.self_attn.v_proj")
        keys, values = (graph.linear(normed, name) for name in names)
        return normed, keys, values

    def attend(self, graph: Graph, x: str, attention: str, keys: str, values: str, mask: str | None = None) -> Attended:
        """Append an attention of the decoder over ``keys`` ``[B, H, D/H, T]`` and ``values`` ``[B, H, T, D/H]``."""
        scores = graph.op("MatMul", self._queries(graph, x, attention, self.num_heads), keys)
        masked = scores if mask is None else graph.op("Add", scores, mask)
        output = graph.linear(graph.attend(masked, values, self.width), f"{attention}.out_proj")
        return Attended(output, scores)

    def finish_layer(
        self, graph: Graph, x: str, own: Attended, layer: str, cross_keys: str, cross_values: str
    ) -> tuple[str, str]:
        """Append the rest of a layer after its self attention ``own``; returns hidden states and cross scores."""
        x = graph.op("Add", x, own.output)
        normed = graph.norm(x, f"{layer}.encoder_attn_layer_norm")
        cross = self.attend(graph, normed, f"{layer}.encoder_attn", cross_keys, cross_values)
        return self._feed_forward(graph, graph.op("Add", x, cross.output), layer), cross.scores

    def logits(self, graph: Graph, x: str) -> str:
        """Append the output layer at the last position alone, ``[B, 1, V]``: no runtime reads another one."""
        last = graph.slice(x, graph.numbers(-1), graph.numbers(2**31 - 1), axis=1)
        return graph.matmul(graph.norm(last, "model.decoder.layer_norm"), EMBEDDING)

    def _queries(self, graph: Graph, x: str, attention: str, num_heads: int) -> str:
        scale = graph.number((self.width // num_heads) ** -0.5)
        return graph.heads(graph.op("Mul", graph.linear(x, f"{attention}.q_proj"), scale), num_heads, self.width)

    def _feed_forward(self, graph: Graph, x: str, layer: str) -> str:
        hidden = graph.gelu(graph.linear(graph.norm(x, f"{layer}.final_layer_norm"), f"{layer}.fc1"))
        return graph.op("Add", x, graph.linear(hidden, f"{layer}.fc2"))


def weights_of(adapter: WhisperAdapter) -> dict[str, Any]:
    """Return the weights of ``adapter``, whose output layer is its embedding.

    Raises:
        ModelError: The output layer has weights of its own.
    """
    weights = {name: value.detach().float().numpy() for name, value in adapter.model.state_dict().items()}
    if not np.array_equal(weights.pop(OUTPUT_LAYER), weights[EMBEDDING]):
        raise ModelError("the output layer of this Whisper is not its embedding, which its graphs store once")
    return weights


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """Describe a float32 input."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def integers(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """Describe an int64 input."""
    return helper.make_tensor_value_info(name, TensorProto.INT64, shape)
