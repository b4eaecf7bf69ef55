"""The file format of whisper.cpp: read, written and quantized in numpy. Knows no model folder.

Source: ggml-org/whisper.cpp, ``whisper_model_load`` of ``src/whisper.cpp``; the blocks are those of
``ggml/src/ggml-quants.c``. All numbers are little-endian.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asr_lightning.export.whisper.folder import Array

MAGIC = 0x67676D6C
BLOCK = 32
"""Number of values that are quantized together."""
QUANTIZED = 2000
"""Added to the number of the file type: version 2 of the quantized layouts."""
FILE_TYPES = {"f16": 1, "q8_0": QUANTIZED + 7, "q5_1": QUANTIZED + 9}
TENSOR_TYPES = {"f32": 0, "f16": 1, "q5_1": 7, "q8_0": 8}
BLOCK_BYTES = {"f32": 4 * BLOCK, "f16": 2 * BLOCK, "q5_1": 24, "q8_0": 34}
Q8_0 = np.dtype([("scale", "<f2"), ("values", "i1", BLOCK)])
Q5_1 = np.dtype([("scale", "<f2"), ("least", "<f2"), ("high", "<u4"), ("low", "u1", BLOCK // 2)])
MOST_DIMS, LONGEST_NAME = 4, 200


class GgmlError(ValueError):
    """A file is not in the format, or is cut off."""


@dataclass(frozen=True)
class Hparams:
    """The sizes at the start of the file, in its order."""

    n_vocab: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    n_mels: int
    file_type: int


class Packed(NamedTuple):
    """A weight as the file holds it.

    Attributes:
        kind: ``f32``, ``f16``, ``q8_0`` or ``q5_1``.
        shape: Its shape in numpy's order, which is the reverse of the file's.
        content: Its bytes.
    """

    kind: str
    shape: tuple[int, ...]
    content: bytes


class GgmlFile(NamedTuple):
    """The content of a file.

    Attributes:
        hparams: The sizes.
        mel_filters: ``[M, 201]``, float32.
        tokens: The text of each token, in bytes, by its id; special tokens are left out.
        tensors: The weights by their names.
    """

    hparams: Hparams
    mel_filters: Array
    tokens: list[bytes]
    tensors: Mapping[str, Packed]


def pack(tensor: Array, kind: str) -> Packed:
    """Return ``tensor`` as the file holds it.

    Raises:
        GgmlError: Its rows cannot be divided into blocks.
    """
    if kind in ("f32", "f16"):
        return Packed(kind, tensor.shape, np.ascontiguousarray(tensor, {"f32": "<f4", "f16": "<f2"}[kind]).tobytes())
    if tensor.shape[-1] % BLOCK:
        raise GgmlError(f"{kind} needs rows of a multiple of {BLOCK} values, and there are {tensor.shape[-1]}")
    blocks = np.asarray(tensor, np.float32).reshape(-1, BLOCK)
    return Packed(kind, tensor.shape, (_q8_0(blocks) if kind == "q8_0" else _q5_1(blocks)).tobytes())


def _inverse(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.divide(np.float32(1), scale, out=np.zeros_like(scale), where=scale != 0)


def _q8_0(blocks: NDArray[np.float32]) -> Array:
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    scaled = blocks * _inverse(scale)
    packed = np.empty(len(blocks), Q8_0)
    packed["scale"] = scale[:, 0]
    # C's roundf rounds halves away from zero; in float64, adding a half is exact.
    packed["values"] = np.trunc(scaled.astype(np.float64) + np.copysign(0.5, scaled))
    return packed


def _q5_1(blocks: NDArray[np.float32]) -> Array:
    least = blocks.min(1, keepdims=True)
    scale = (blocks.max(1, keepdims=True) - least) / np.float32(31)
    levels = ((blocks - least) * _inverse(scale) + np.float32(0.5)).astype(np.uint8)
    first, second = levels[:, : BLOCK // 2], levels[:, BLOCK // 2 :]
    packed = np.empty(len(blocks), Q5_1)
    packed["scale"], packed["least"] = scale[:, 0], least[:, 0]
    packed["low"] = (first & 15) | ((second & 15) << 4)
    packed["high"] = ((levels >> 4).astype(np.uint32) << np.arange(BLOCK, dtype=np.uint32)).sum(1, dtype=np.uint32)
    return packed


def unpack(packed: Packed) -> NDArray[np.float32]:
    """Return the values of a weight, as whisper.cpp computes with them."""
    if packed.kind in ("f32", "f16"):
        values = np.frombuffer(packed.content, {"f32": "<f4", "f16": "<f2"}[packed.kind])
    elif packed.kind == "q8_0":
        blocks = np.frombuffer(packed.content, Q8_0)
        values = blocks["values"] * blocks["scale"].astype(np.float32)[:, None]
    else:
        blocks = np.frombuffer(packed.content, Q5_1)
        low = np.concatenate([blocks["low"] & 15, blocks["low"] >> 4], axis=1)
        high = (blocks["high"][:, None] >> np.arange(BLOCK, dtype=np.uint32)) & 1
        scale, least = (blocks[name].astype(np.float32)[:, None] for name in ("scale", "least"))
        values = (low | (high << 4).astype(np.uint8)) * scale + least
    return values.astype(np.float32).reshape(packed.shape)


def write(
    path: Path, hparams: Hparams, mel_filters: Array, tokens: Iterable[bytes], tensors: Iterable[tuple[str, Packed]]
) -> None:
    """Write a file; ``tensors`` are taken one after the other, so that no more than one is in memory."""
    with path.open("wb") as file:
        file.write(struct.pack("<I11i", MAGIC, *astuple(hparams)))
        file.write(struct.pack("<2i", *mel_filters.shape))
        file.write(np.ascontiguousarray(mel_filters, "<f4").tobytes())
        texts = list(tokens)
        file.write(struct.pack("<i", len(texts)))
        for text in texts:
            file.write(struct.pack("<i", len(text)) + text)
        for name, packed in tensors:
            encoded = name.encode()
            file.write(struct.pack("<3i", len(packed.shape), len(encoded), TENSOR_TYPES[packed.kind]))
            file.write(struct.pack(f"<{len(packed.shape)}i", *reversed(packed.shape)) + encoded)
            file.write(packed.content)


def read(path: Path) -> GgmlFile:
    """Read a file.

    Raises:
        GgmlError: It is not in the format, or is cut off.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        magic, *sizes = _numbers(file, "I11i")
        if magic != MAGIC:
            raise GgmlError("it does not start as whisper.cpp's files do")
        rows, columns = _numbers(file, "2i")
        if not (0 < rows <= 1024 and 0 < columns <= 4096):
            raise GgmlError(f"it claims {rows} x {columns} mel filters")
        filters = np.frombuffer(_bytes(file, 4 * rows * columns), "<f4").reshape(rows, columns)
        tokens = [_text(file, size) for _ in range(_count(file, size))]
        tensors: dict[str, Packed] = {}
        while file.tell() < size:
            name, packed = _tensor(file)
            if name in tensors:
                raise GgmlError(f"it has {name} twice")
            tensors[name] = packed
    return GgmlFile(Hparams(*sizes), filters, tokens, tensors)


def _tensor(file: BinaryIO) -> tuple[str, Packed]:
    dims, length, number = _numbers(file, "3i")
    kinds = {value: kind for kind, value in TENSOR_TYPES.items()}
    if not (0 < dims <= MOST_DIMS and 0 < length <= LONGEST_NAME and number in kinds):
        raise GgmlError(f"at byte {file.tell()} there is no weight")
    shape = tuple(reversed(_numbers(file, f"{dims}i")))
    name = _bytes(file, length).decode("utf-8", "replace")
    values = math.prod(shape)
    if min(shape) <= 0 or (kinds[number] in ("q8_0", "q5_1") and values % BLOCK):
        raise GgmlError(f"{name} has the impossible shape {list(shape)}")
    return name, Packed(kinds[number], shape, _bytes(file, values * BLOCK_BYTES[kinds[number]] // BLOCK))


def _count(file: BinaryIO, size: int) -> int:
    (count,) = _numbers(file, "i")
    if not 0 <= count <= size // 4:
        raise GgmlError(f"it claims {count} tokens")
    return int(count)


def _text(file: BinaryIO, size: int) -> bytes:
    (length,) = _numbers(file, "i")
    if not 0 <= length <= size:
        raise GgmlError(f"it claims a token of {length} bytes")
    return _bytes(file, length)


def _numbers(file: BinaryIO, layout: str) -> tuple[int, ...]:
    layout = f"<{layout}"
    return struct.unpack(layout, _bytes(file, struct.calcsize(layout)))


def _bytes(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise GgmlError(f"it is cut off after {file.tell()} bytes")
    return content
