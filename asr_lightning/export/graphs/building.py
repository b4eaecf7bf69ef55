"""Builds ONNX graphs from the weights of a network, under the names that these have in the network.

We write the graphs ourselves: a tensor in the file can then be compared with the tensor that it comes from, one graph
serves several runtimes, and nothing is traced, so that it takes any length and is made in a fraction of a second.
torch's exporter calls transposed weights ``onnx::MatMul_123``, and stores an embedding that is also the output layer
twice. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
"""The oldest that have LayerNormalization: the runtimes in phones and browsers are older than ours."""
QUANTIZED, SCALE = "_quantized", "_scale"
"""Ends of the names of a quantized weight, as onnxruntime.quantization has them."""
EXTERNAL_BYTES = 2**31 - 2**24
"""A file that would be larger keeps its weights in one beside it; a message of protobuf has at most 2 GiB."""

Array = NDArray[Any]
Weights = Mapping[str, NDArray[np.float32]]
Shapes = Mapping[str, Sequence[int | str]]
"""Shapes by the names of inputs or outputs; dimensions that vary have names."""


@dataclass
class Graph:
    """A graph that is being built.

    Attributes:
        weights: Weights of the network by their names.
        is_quantized: Whether matrices are stored as int8 with a scale for each output, and multiplied by inputs that
            are quantized as they come. The numbers are those of onnxruntime's ``quantize_dynamic``, which takes seconds
            for an output layer of 51 865 tokens, and stores it a second time as the embedding.
        prefix: Start of the names of the nodes, by which branches differ from each other.
        nodes: The nodes so far.
        tensors: The stored tensors by their names.
    """

    weights: Weights
    is_quantized: bool = False
    prefix: str = ""
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)
    _quantized_inputs: dict[str, Sequence[str]] = field(default_factory=dict)

    def branch(self, prefix: str) -> Graph:
        """Return a graph for a branch of a condition in this one, with which it shares the tensors."""
        return Graph(self.weights, self.is_quantized, prefix, tensors=self.tensors)

    def ops(self, kind: str, *inputs: str, num_outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a node; returns the names of its outputs."""
        name = f"{self.prefix}{kind}_{len(self.nodes)}"
        outputs = [f"{name}_{number}" for number in range(num_outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, name=name, **attributes))
        return outputs

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output; returns the name of that."""
        return self.ops(kind, *inputs, **attributes)[0]

    def store(self, name: str, values: Array) -> str:
        """Store ``values`` under ``name`` unless they are there; returns the name."""
        if name not in self.tensors:
            self.tensors[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def numbers(self, *values: int) -> str:
        """Store whole numbers, as indices and shapes are; returns their name."""
        return self.store(f"int64_{'_'.join(map(str, values))}", np.array(values, np.int64))

    def number(self, value: float) -> str:
        """Store one float32; returns its name."""
        return self.store(f"float32_{value!r}", np.array(value, np.float32))

    def weight(self, name: str) -> str:
        """Store the weight ``name`` as it is; returns its name."""
        return self.store(name, self.weights[name])

    def linear(self, x: str, layer: str) -> str:
        """Append the linear layer ``layer``, with its bias if it has one."""
        product = self.matmul(x, f"{layer}.weight")
        has_bias = f"{layer}.bias" in self.weights
        return self.op("Add", product, self.weight(f"{layer}.bias")) if has_bias else product

    def matmul(self, x: str, name: str) -> str:
        """Append the product of ``x`` and the transposed weight ``name`` ``[out, in]``."""
        if not self.is_quantized:
            return self.op("MatMul", x, self.store(name, self.weights[name].T))
        matrix, scales = self._store_quantized(name)
        if x not in self._quantized_inputs:
            self._quantized_inputs[x] = self.ops("DynamicQuantizeLinear", x, num_outputs=3)
        values, scale, zero = self._quantized_inputs[x]
        product = self.op("Cast", self.op("MatMulInteger", values, matrix, zero), to=TensorProto.FLOAT)
        return self.op("Mul", product, self.op("Mul", scale, scales))

    def rows(self, name: str, indices: str) -> str:
        """Append the look-up of the rows ``indices`` ``[B, U]`` of the weight ``name`` ``[V, D]``: ``[B, U, D]``.

        The weight is stored transposed, as ``matmul`` has it: it is the output layer too.
        """
        if self.is_quantized:
            matrix, scales = self._store_quantized(name)
            columns = self.op("Cast", self.op("Gather", matrix, indices, axis=1), to=TensorProto.FLOAT)
            columns = self.op("Mul", columns, self.op("Gather", scales, indices))
        else:
            columns = self.op("Gather", self.store(name, self.weights[name].T), indices, axis=1)
        return self.op("Transpose", columns, perm=[1, 2, 0])

    def norm(self, x: str, layer: str) -> str:
        """Append the layer normalization ``layer``."""
        weight, bias = self.weight(f"{layer}.weight"), self.weight(f"{layer}.bias")
        return self.op("LayerNormalization", x, weight, bias, axis=-1, epsilon=1e-5)

    def gelu(self, x: str) -> str:
        """Append the exact GELU."""
        erf = self.op("Erf", self.op("Div", x, self.number(2**0.5)))
        return self.op("Mul", self.op("Mul", x, self.op("Add", erf, self.number(1.0))), self.number(0.5))

    def heads(self, x: str, num_heads: int, width: int, perm: Sequence[int] = (0, 2, 1, 3)) -> str:
        """Append the division of ``x`` ``[B, U, D]`` into heads: ``[B, H, U, D/H]``, or another order of these."""
        return self.op("Transpose", self.op("Reshape", x, self.numbers(0, 0, num_heads, width // num_heads)), perm=perm)

    def attend(self, scores: str, values: str, width: int) -> str:
        """Append the mean of ``values`` ``[B, H, T, D/H]`` by ``scores`` ``[B, H, U, T]``: ``[B, U, D]``."""
        mean = self.op("MatMul", self.op("Softmax", scores, axis=-1), values)
        return self.op("Reshape", self.op("Transpose", mean, perm=[0, 2, 1, 3]), self.numbers(0, 0, width))

    def slice(self, x: str, start: str, end: str, axis: int) -> str:
        """Append the part of ``x`` from ``start`` to before ``end``, each int64 ``[1]``."""
        return self.op("Slice", x, start, end, self.numbers(axis))

    def rename(self, x: str, name: str) -> None:
        """Call the value ``x`` ``name``, as an output of the graph."""
        self.nodes.append(helper.make_node("Identity", [x], [name], name=f"{self.prefix}output_{name}"))

    def _store_quantized(self, name: str) -> tuple[str, str]:
        if name + QUANTIZED not in self.tensors:
            matrix, scales = quantize(self.weights[name])
            self.store(name + QUANTIZED, matrix.T)
            self.store(name + SCALE, scales)
        return name + QUANTIZED, name + SCALE


def quantize(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return ``weight`` ``[out, in]`` as int8 from -64 to 64, and the scale of each row.

    Seven bits, since processors without VNNI add two products in 16 bits, which overflow with eight: ``reduce_range``
    of onnxruntime. On the demo's 49 test clips the WER is 7.9 % with either.
    """
    scales = np.maximum(np.abs(weight).max(axis=1), np.finfo(np.float32).tiny) / 64
    return np.round(weight / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def graph_proto(graph: Graph, name: str, inputs: Mapping[str, onnx.ValueInfoProto], outputs: Shapes) -> onnx.GraphProto:
    """Return ``graph`` without its tensors, as a branch is; outputs are float32."""
    made = [helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in outputs.items()]
    return helper.make_graph(graph.nodes, name, list(inputs.values()), made)


def model_proto(
    graph: Graph, name: str, inputs: Mapping[str, onnx.ValueInfoProto], outputs: Shapes, metadata: Mapping[str, str]
) -> onnx.ModelProto:
    """Return the model that ``graph`` is, with its tensors and with ``metadata``."""
    content = graph_proto(graph, name, inputs, outputs)
    content.initializer.extend(graph.tensors.values())
    model = helper.make_model(content, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    helper.set_model_props(model, dict(metadata))
    return model


def write(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model`` to ``path``; a large one with its weights in a file of the same name that ends in ``.data``."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    is_external = size > EXTERNAL_BYTES
    onnx.save(
        model, str(path), save_as_external_data=is_external, location=f"{path.name}.data" if is_external else None
    )
