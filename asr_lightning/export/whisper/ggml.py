"""Whisper for whisper.cpp: one file with weights, vocabulary and mel filters. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from asr_lightning.errors import ModelError
from asr_lightning.export.whisper import ggml_file
from asr_lightning.export.whisper.folder import Array, WhisperFolder
from asr_lightning.export.whisper.ggml_file import FILE_TYPES, GgmlError, GgmlFile, Hparams, Packed
from asr_lightning.export.whisper.openai_layout import (
    dims,
    openai_tensors,
    refuse_unlike,
    setting_problems,
    shape_problems,
    value_problems,
)
from asr_lightning.runtime.whisper.features import mel_filters

FILE_NAME = "ggml-model.bin"
KEPT = ("encoder.positional_embedding", "decoder.positional_embedding")
"""Matrices that whisper.cpp wants in float32."""
COLUMNS = ("encoder.conv1.bias", "encoder.conv2.bias")
"""Vectors that whisper.cpp wants as matrices of one column."""
CLOSE = {"f32": 0.0, "f16": 2e-3, "q8_0": 0.02, "q5_1": 0.12}
"""Largest relative distance (norm of the difference over the norm of the weight) of intact weights. Measured: those of
whisper-tiny.en and random ones are within 3e-4, 8e-3 and 5e-2; a swapped weight is at 1 or more."""


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write ``ggml-model.bin`` to ``target`` and return the settings for reading audio.

    Raises:
        ModelError: whisper.cpp cannot hold the model.
    """
    folder = WhisperFolder(source)
    settings = folder.settings()
    refuse_unlike(folder, settings)
    tensors = ((name, _packed(name, tensor, variant)) for name, tensor in openai_tensors(folder).items())
    ggml_file.write(target / FILE_NAME, _hparams(folder, variant), _filters(folder), token_texts(folder), tensors)
    return {
        **settings.as_json(),
        "audio_ctx": "frames / 2, of those that the settings give the clip",
        "flash_attention": False,
        "file_bytes": (target / FILE_NAME).stat().st_size,
    }


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the file in ``target``, read with a reader of our own, as sentences."""
    path = target / FILE_NAME
    try:
        folder, written = WhisperFolder(source), ggml_file.read(path)
        found = list(_header_problems(folder, written))
        found += shape_problems(folder, {name: _plain_shape(name, packed) for name, packed in written.tensors.items()})
        found = found or list(value_problems(folder, _unpacked(written)))
        return [f"{FILE_NAME}: {problem}" for problem in found + list(setting_problems(folder, settings))]
    except GgmlError as error:
        return [f"{FILE_NAME} is damaged: {error}"]
    except (OSError, ModelError) as error:
        return [str(error)]


def token_texts(folder: WhisperFolder) -> list[bytes]:
    """Return the text of each token below the end of text, in bytes; the others are special and left out.

    A byte-level vocabulary spells bytes as printable characters. Multilingual Whispers have an unused token, 50256,
    whose text is empty.

    Raises:
        ModelError: The vocabulary has gaps, or is not byte-level.
    """
    end = folder.settings().eos
    texts = {token: text for text, token in folder.vocabulary.items() if token < end}
    missing = [token for token in range(end) if token not in texts]
    if len(missing) > 1 or not texts:
        raise ModelError(f"the vocabulary of {folder.path} lacks {len(missing)} tokens: copy tokenizer.json again")
    try:
        return [texts.get(token, "").translate(_bytes_of_letters()).encode("latin-1") for token in range(end)]
    except UnicodeEncodeError as error:
        raise ModelError(f"the vocabulary of {folder.path} is not byte-level: {error}") from error


@lru_cache
def _bytes_of_letters() -> dict[int, int]:
    """Each character that stands for a byte. Source: ``bytes_to_unicode`` in ``encoder.py`` of openai/gpt-2."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: byte for byte in printable} | {256 + place: byte for place, byte in enumerate(others)}


def _hparams(folder: WhisperFolder, variant: str) -> Hparams:
    return Hparams(**dims(folder), file_type=FILE_TYPES[variant])


def _filters(folder: WhisperFolder) -> Array:
    return mel_filters(folder.size("num_mel_bins")).astype(np.float32)


def _packed(name: str, tensor: Array, variant: str) -> Packed:
    return ggml_file.pack(tensor.reshape(-1, 1) if name in COLUMNS else tensor, _kind(name, tensor.ndim, variant))


def _kind(name: str, dims: int, variant: str) -> str:
    """Return the kind that whisper.cpp wants: matrices of the variant, convolutions f16, the rest f32."""
    if dims == 1 or name in KEPT or name in COLUMNS:
        return "f32"
    return "f16" if dims == 3 else variant


def _plain_shape(name: str, packed: Packed) -> tuple[int, ...]:
    return packed.shape[:1] if name in COLUMNS else packed.shape


def _header_problems(folder: WhisperFolder, written: GgmlFile) -> Iterator[str]:
    kinds = {number: variant for variant, number in FILE_TYPES.items()}
    if written.hparams.file_type not in kinds:
        yield f"its file type {written.hparams.file_type} is none of {', '.join(FILE_TYPES)}"
        return
    variant = kinds[written.hparams.file_type]
    for name, packed in written.tensors.items():
        if packed.kind != (kind := _kind(name, len(packed.shape), variant)):
            yield f"{name} is {packed.kind}, and whisper.cpp wants {kind} in a file of {variant}"
    wanted = _hparams(folder, variant)
    for name in Hparams.__dataclass_fields__:
        got, own = getattr(written.hparams, name), getattr(wanted, name)
        if got != own:
            yield f"it has {got} for {name}, and the model has {own}"
    filters = _filters(folder)
    if written.mel_filters.shape != filters.shape or not np.allclose(written.mel_filters, filters, atol=1e-7):
        yield "its mel filters are not those of the model"
    texts = token_texts(folder)
    if wrong := sum(got != own for got, own in zip(written.tokens, texts, strict=False)):
        yield f"{wrong} of its tokens have another text than the tokenizer gives them"
    if len(written.tokens) != len(texts):
        yield f"it has {len(written.tokens)} tokens of text, and the tokenizer has {len(texts)}"


def _unpacked(written: GgmlFile) -> Iterator[tuple[str, Array, float]]:
    for name, packed in written.tensors.items():
        yield name, ggml_file.unpack(packed), CLOSE[packed.kind]
