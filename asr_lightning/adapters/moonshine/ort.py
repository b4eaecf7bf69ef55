"""Reads the weights of a quantised network in ONNX Runtime's own format (``.ort``, a flatbuffer).

Needs neither onnxruntime nor flatbuffers, and knows no model family. Used by ``wheel.py``. Field numbers are those of
onnxruntime's ``core/flatbuffers/schema/ort.fbs``, format version 6.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

Array = np.ndarray

DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 6: np.dtype("<i4"), 7: np.dtype("<i8"),
}  # fmt: skip
"""Types by ``TensorDataType``; tensors of other types are no weights."""

PRODUCTS = {"MatMulIntegerToFloat": (1, 3, 5), "DynamicQuantizeMatMul": (1, 2, 3)}
"""Positions of the weight, of its scale and of its zero point among the inputs of a quantised product. Source:
onnxruntime ``docs/ContribOperators.md``."""


class Table:
    """A flatbuffer table at byte ``at`` of ``data``, whose fields are numbered as in the schema."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self._at = at
        self._fields = at - struct.unpack_from("<i", data, at)[0]
        self._size = struct.unpack_from("<H", data, self._fields)[0]

    def int32(self, field: int) -> int:
        """Read a number; an absent field is 0, which is the schema's default."""
        place = self._place(field)
        return int(struct.unpack_from("<i", self.data, place)[0]) if place else 0

    def table(self, field: int) -> Table | None:
        """Return the table that a field points to."""
        place = self._place(field)
        return Table(self.data, self._target(place)) if place else None

    def vector(self, field: int) -> tuple[int, int]:
        """Return the byte at which the items of a vector start, and their number."""
        place = self._place(field)
        if not place:
            return 0, 0
        start = self._target(place)
        return start + 4, self._uint32(start)

    def text(self, field: int) -> str:
        """Read a string, which has the layout of a vector of bytes."""
        start, length = self.vector(field)
        return self.data[start : start + length].decode()

    def texts(self, field: int) -> list[str]:
        """Read a vector of strings."""
        return [self.data[at + 4 : at + 4 + self._uint32(at)].decode() for at in self._targets(field)]

    def tables(self, field: int) -> list[Table]:
        """Read a vector of tables."""
        return [Table(self.data, at) for at in self._targets(field)]

    def _place(self, field: int) -> int:
        """Return the place of a field; 0 if it is absent."""
        entry = 4 + 2 * field
        offset = struct.unpack_from("<H", self.data, self._fields + entry)[0] if entry < self._size else 0
        return self._at + offset if offset else 0

    def _uint32(self, at: int) -> int:
        return int(struct.unpack_from("<I", self.data, at)[0])

    def _target(self, place: int) -> int:
        return place + self._uint32(place)

    def _targets(self, field: int) -> list[int]:
        start, count = self.vector(field)
        return [self._target(start + 4 * index) for index in range(count)]


class Graph:
    """The constants and the nodes of an ``.ort`` file, including those in the branches of an ``If``.

    Args:
        data: Content of the file.

    Attributes:
        tensors: Constants by their names.
        nodes: Operator and names of the inputs of each node, by the name of the node. Branches repeat nodes; the first
            of a name is taken.

    Raises:
        ValueError: This is no ``.ort`` file, or one of another version.
    """

    def __init__(self, data: bytes) -> None:
        if data[4:8] != b"ORTM":
            raise ValueError("this is no model in ONNX Runtime's format: give an .ort file")
        session = Table(data, struct.unpack_from("<I", data)[0])
        model = session.table(1)
        graph = model and model.table(7)
        if session.text(0) != "6" or graph is None:
            raise ValueError(f"this .ort file has version {session.text(0)}, and only 6 is known here")
        self.tensors: dict[str, Array] = {}
        self.nodes: dict[str, tuple[str, list[str]]] = {}
        self._read(graph)

    def _read(self, graph: Table) -> None:
        for tensor in graph.tables(0):
            dtype = DTYPES.get(tensor.int32(3))
            if dtype is not None:
                self.tensors.setdefault(tensor.text(0), _array(tensor, dtype))
        for node in graph.tables(2):
            self.nodes.setdefault(node.text(0), (node.text(5), node.texts(8)))
            for attribute in node.tables(10):
                branch = attribute.table(7)
                if branch is not None:
                    self._read(branch)

    def products(self) -> Iterator[tuple[str, Array]]:
        """Yield, for each quantised product, the name of its node and its weight in float32, in torch's layout."""
        for name, (operator, inputs) in self.nodes.items():
            if operator in PRODUCTS:
                yield name, self.dequantized(*(inputs[place] for place in PRODUCTS[operator])).T

    def dequantized(self, codes: str, scale: str, zero_point: str) -> Array:
        """Return ``(codes - zero_point) * scale`` in float32 of three named constants; a tensor has one scale."""
        zero, step = (np.float32(self.tensors[name].item()) for name in (zero_point, scale))
        return np.asarray((self.tensors[codes].astype(np.float32) - zero) * step)


def _array(tensor: Table, dtype: np.dtype[Any]) -> Array:
    dims_at, rank = tensor.vector(2)
    start, length = tensor.vector(4)
    shape = struct.unpack_from(f"<{rank}q", tensor.data, dims_at)
    return np.frombuffer(tensor.data, dtype, length // dtype.itemsize, start).reshape(shape)
