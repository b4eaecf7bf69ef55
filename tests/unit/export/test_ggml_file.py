"""The blocks are those of ggml's own library, bit for bit, and a file is read as it was written."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from asr_lightning.export.whisper import ggml_file
from asr_lightning.export.whisper.ggml_file import GgmlError, Hparams, pack, unpack

HPARAMS = Hparams(*range(1, 12))


def rows() -> np.ndarray:
    """Weights as they are, and what divides by zero or rounds to a tie: zeros, equal values, one outlier, halves."""
    random = np.random.default_rng(0)
    usual = random.normal(0, 0.05, (400, 64))
    outlier = random.normal(0, 1e-3, (20, 64))
    outlier[:, 5] = 3
    halves = np.tile(np.arange(-32, 32) / 2 + 127 / 64, (4, 1))
    return np.concatenate([usual, outlier, halves, np.zeros((1, 64)), np.full((1, 64), 0.3)]).astype(np.float32)


@pytest.mark.parametrize("kind", ["q8_0", "q5_1"])
def test_blocks_are_those_of_ggml(kind: str) -> None:
    spec = find_spec("pywhispercpp")
    assert spec is not None and spec.origin is not None
    library = next((Path(spec.origin).parents[1] / "pywhispercpp.libs").glob("libggml-base*"))
    values = rows()
    packed = pack(values, kind)
    theirs = ctypes.create_string_buffer(len(packed.content))
    quantize = ctypes.CDLL(str(library)).ggml_quantize_chunk
    quantize.restype, quantize.argtypes = ctypes.c_size_t, [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    ]  # fmt: skip
    written = quantize(ggml_file.TENSOR_TYPES[kind], values.ctypes.data, theirs, 0, *values.shape, None)
    assert written == len(packed.content)
    assert theirs.raw == packed.content


@pytest.mark.parametrize(("kind", "levels"), [("f32", 1e9), ("f16", 1000), ("q8_0", 127), ("q5_1", 31)])
def test_values_come_back(kind: str, levels: float) -> None:
    values = rows()
    spans = np.ptp(np.concatenate([values, np.zeros_like(values)], axis=1), axis=1, keepdims=True)
    assert np.all(np.abs(unpack(pack(values, kind)) - values) <= 1.2 * spans / levels + 1e-9)


def write(path: Path) -> Path:
    random = np.random.default_rng(1)
    tensors = {
        "a.weight": pack(random.normal(size=(3, 64)), "q5_1"),
        "b.weight": pack(random.normal(size=(4, 5, 3)), "f16"),
        "b.bias": pack(random.normal(size=(4, 1)), "f32"),
    }
    filters = random.normal(size=(80, 201)).astype(np.float32)
    ggml_file.write(path, HPARAMS, filters, [b"a", b"", "ä".encode()], tensors.items())
    return path


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = ggml_file.read(write(tmp_path / "model.bin"))
    assert found.hparams == HPARAMS and found.tokens == [b"a", b"", "ä".encode()]
    assert found.mel_filters.shape == (80, 201)
    assert [(name, packed.kind, packed.shape) for name, packed in found.tensors.items()] == [
        ("a.weight", "q5_1", (3, 64)), ("b.weight", "f16", (4, 5, 3)), ("b.bias", "f32", (4, 1))
    ]  # fmt: skip


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / "model.bin").read_bytes()
    cut = tmp_path / "cut.bin"
    weights_start = len(whole) - 500
    ends = [*range(0, 60), *range(60, weights_start, 4001), *range(weights_start, len(whole))]
    passed = 0
    for end in ends:
        cut.write_bytes(whole[:end])
        try:
            passed += len(ggml_file.read(cut).tensors) == 3
        except GgmlError:
            continue
    assert passed == 0


@pytest.mark.parametrize("seed", range(5))
def test_a_damaged_file_is_read_or_refused_and_never_crashes(tmp_path: Path, seed: int) -> None:
    path = write(tmp_path / "model.bin")
    content = np.frombuffer(path.read_bytes(), np.uint8)
    random = np.random.default_rng(seed)
    for _ in range(40):
        damaged = content.copy()
        damaged[random.integers(0, len(damaged), 20)] = random.integers(0, 256, 20)
        damaged[random.integers(0, 60, 2)] = 255
        path.write_bytes(damaged.tobytes())
        try:
            ggml_file.read(path)
        except GgmlError as error:
            assert str(error)
