"""Writes graphs of modules of torch, and quantizes them: what all converters to ONNX share.

Graphs are traced rather than compiled: that is twenty times as fast (1 s in place of 20 s for two layers), and the
graphs have half the nodes. Their modules must therefore take shapes from their inputs alone.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

OPSET = 17
"""Read by onnxruntime from 1.12 on, which is older than any that sherpa-onnx or Moonshine's runtime brings."""
MOST_BYTES = 1_900_000_000
"""Graphs above have their weights in a file beside them: protocol buffers hold at most 2 GB."""


def trace(
    module: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Write the graph of ``module`` to ``path``.

    Args:
        module: Network in eval mode.
        path: File to write.
        inputs: An example of each input, by its name in the graph.
        outputs: Names of the outputs.
        axes: Axes whose length varies, with a name, for each input and output that has any.
        metadata: Entries for the metadata of the file.
    """
    # Of graphs above 2 GB, torch writes each weight to a file of its own, which do not belong beside the graph.
    with quiet(), torch.no_grad(), tempfile.TemporaryDirectory(dir=path.parent) as folder:
        traced = Path(folder) / path.name
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(traced),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(names) for name, names in axes.items()},
            opset_version=OPSET,
            dynamo=False,
        )
        model = onnx.load(str(traced))
    onnx.helper.set_model_props(model, {name: str(value) for name, value in (metadata or {}).items()})
    save(model, path)


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model``; if it is too large for one file, with its weights in ``path`` with ``.data`` at the end."""
    is_large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > MOST_BYTES
    onnx.save_model(model, str(path), save_as_external_data=is_large, location=f"{path.name}.data")


def quantize(path: Path) -> None:
    """Round the weights of the matrix products of the graph in ``path`` to 8 bits, each column with its own scale.

    An embedding that shares its matrix with a product (``SharedEmbedding``) is read from the rounded one.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    rounded = path.with_suffix(".int8")
    with quiet():
        quantize_dynamic(
            str(path),
            str(rounded),
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            use_external_data_format=path.with_name(f"{path.name}.data").exists(),
            extra_options={"MatMulConstBOnly": True},
        )
    metadata = {entry.key: entry.value for entry in onnx.load(str(path), load_external_data=False).metadata_props}
    model = onnx.load(str(rounded))
    for leftover in (rounded, *path.parent.glob(f"{rounded.name}*"), path.with_name(f"{path.name}.data")):
        leftover.unlink(missing_ok=True)
    onnx.helper.set_model_props(model, metadata)
    _share_embeddings(model.graph)
    save(model, path)


def _share_embeddings(graph: onnx.GraphProto) -> None:
    """Let each ``Gather`` from a matrix that was rounded read the rounded one, and drop the matrix."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes = list(graph.node)
    for node in nodes:
        if node.op_type == "Gather" and f"{node.input[0]}_quantized" in constants:
            place = list(graph.node).index(node)
            graph.node.remove(node)
            for added in reversed(list(_rounded_gather(node))):
                graph.node.insert(place, added)
    used = {name for node in graph.node for name in node.input}
    for name, tensor in constants.items():
        if name not in used and f"{name}_quantized" in constants:
            graph.initializer.remove(tensor)


def _rounded_gather(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """The nodes of ``(codes - zero point) * scale`` for the columns that ``node`` takes, which name its output."""
    matrix, columns = node.input
    result = node.output[0]

    def step(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
        return onnx.helper.make_node(kind, list(inputs), [output], **attributes)

    for part, axis in (("quantized", 1), ("zero_point", 0)):
        yield step("Gather", (f"{matrix}_{part}", columns), f"{result}_{part}", axis=axis)
        yield step("Cast", (f"{result}_{part}",), f"{result}_{part}_float", to=onnx.TensorProto.FLOAT)
    yield step("Gather", (f"{matrix}_scale", columns), f"{result}_scale", axis=0)
    yield step("Sub", (f"{result}_quantized_float", f"{result}_zero_point_float"), f"{result}_centered")
    yield step("Mul", (f"{result}_centered", f"{result}_scale"), result)


class SharedEmbedding(nn.Module):
    """An embedding and the output layer that shares its matrix, which is in the graph once.

    Args:
        embedding: Matrix ``[V, D]`` of the embedding.
    """

    def __init__(self, embedding: Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(embedding.detach().T.contiguous(), requires_grad=False)

    def embed(self, ids: Tensor) -> Tensor:
        """Return the vectors ``[B, U, D]`` of ``ids`` ``[B, U]``."""
        columns = torch.index_select(self.matrix, 1, ids.reshape(-1))
        return columns.T.reshape(ids.shape[0], ids.shape[1], self.matrix.shape[0])

    def forward(self, states: Tensor) -> Tensor:
        """Return the logits ``[B, U, V]`` of ``states`` ``[B, U, D]``."""
        return states @ self.matrix


def weights_of(path: Path) -> Mapping[str, np.ndarray]:
    """Return the constants of the graph in ``path`` by their names."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer}


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch and onnxruntime say of their own code while they trace and round."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        root.setLevel(level)
