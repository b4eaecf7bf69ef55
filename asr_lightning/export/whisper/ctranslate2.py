"""Whisper for CTranslate2: faster-whisper and all that is built on it. The conversion is CTranslate2's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import ctranslate2
import torch
from ctranslate2.converters.transformers import WhisperLoader
from tokenizers import Tokenizer
from torch import Tensor

from asr_lightning.adapters import model_files, saved
from asr_lightning.adapters.whisper import WhisperAdapter, ctranslate2_files
from asr_lightning.export.whisper import loading as whisper
from asr_lightning.runtime.whisper.ctranslate2 import (
    CONFIG,
    EXTRACTOR,
    STORED_TYPE,
    TOKENIZER,
    VOCABULARY,
    WEIGHTS,
)
from asr_lightning.runtime.whisper.settings import WhisperSettings

STORED_TYPES = {"int8": "int8", "float16": "float16", "fp32": "float32"}
"""Type of the weights in the file, for each variant."""
FILES = (WEIGHTS, CONFIG, VOCABULARY, TOKENIZER, EXTRACTOR)
HALF_STEP = {"float16": 2.0**-11, "int8": 0.5 / 127}
"""Largest rounding error: of float16 as a share of the number itself, of int8 as a share of the largest of its row."""
SMALLEST = 2.0**-24
"""Rounding error of the smallest numbers in float16."""
MAX_NAMED = 3


def convert(source: Path, target: Path, variant: str) -> dict[str, object]:
    """Write the model folder ``source`` to the empty folder ``target``; returns the settings that belong to it.

    Raises:
        ModelError: ``source`` is no Whisper model, or cannot be loaded.
    """
    adapter = whisper.load(source)
    tokenizer, stored_type = adapter.processor.tokenizer, STORED_TYPES[variant]
    spec = WhisperLoader()(adapter.model, tokenizer)
    settings = _settings(adapter, source)
    config = spec.config
    if not settings.alignment_heads:  # CTranslate2 has taken those of the upper half of the decoder
        settings = replace(settings, alignment_heads=_pairs(config.alignment_heads))
    config.alignment_heads = [list(pair) for pair in settings.alignment_heads]
    config.suppress_ids, config.suppress_ids_begin = list(settings.suppress), list(settings.begin_suppress)
    config.lang_ids = _language_ids(adapter)
    spec.validate()
    # From here on the weights in adapter.model are spoiled: CTranslate2 quantizes them in place.
    spec.optimize(quantization=stored_type)
    spec.save(str(target))
    tokenizer.backend_tokenizer.save(str(target / TOKENIZER), pretty=False)
    adapter.processor.feature_extractor.save_pretrained(target)
    return {**settings.as_json(), STORED_TYPE: stored_type}


class Converted(NamedTuple):
    """A conversion that is checked: the model that it was made of, its folder and its settings."""

    adapter: WhisperAdapter
    source: Path
    folder: Path
    settings: WhisperSettings
    stored_type: str


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the files that ``convert`` wrote to ``target`` with ``settings``; empty if nothing is.

    The files are read by our own readers and compared with ``source``, since texts do not show every fault.
    """
    if missing := [name for name in FILES if not (target / name).is_file()]:
        return [f"{target} lacks {name}" for name in missing]
    try:
        adapter = whisper.load(source)
        given = WhisperSettings.from_json(settings)
        converted = Converted(adapter, source, target, given, str(settings[STORED_TYPE]))
    except Exception as error:  # transformers raises what its many readers happen to raise
        return [f"{source} and the settings of {target} cannot be read ({type(error).__name__}: {error})"]
    found = [problem for check in CHECKS for problem in _found(check, converted)]
    return found or _found(_loading_problems, converted)  # CTranslate2 gets no files that are known to be spoiled


def _found(check: Callable[[Converted], list[str]], converted: Converted) -> list[str]:
    try:
        return check(converted)
    except Exception as error:  # the files may hold anything, and tokenizers raises Exception itself
        return [f"{converted.folder} cannot be read ({type(error).__name__}: {error})"]


def _settings_problems(converted: Converted) -> list[str]:
    expected = _settings(converted.adapter, converted.source)
    if not expected.alignment_heads:
        expected = replace(expected, alignment_heads=converted.settings.alignment_heads)
    given, wanted = converted.settings.as_json(), expected.as_json()
    return [
        f"the setting {name} is {given[name]!r}, but the model has {wanted[name]!r}"
        for name in wanted
        if given[name] != wanted[name]
    ]


def _config_problems(converted: Converted) -> list[str]:
    config, settings = model_files.read_object(converted.folder / CONFIG), converted.settings
    shape = converted.adapter.model.config
    wanted = {
        "alignment_heads": [list(pair) for pair in settings.alignment_heads],
        "suppress_ids": list(settings.suppress),
        "suppress_ids_begin": list(settings.begin_suppress),
        "lang_ids": _language_ids(converted.adapter),
    }
    found = [
        f"{CONFIG} has other {name} than the model: {config.get(name)!r}"
        for name, value in wanted.items()
        if config.get(name) != value
    ]
    layers, heads = shape.decoder_layers, shape.decoder_attention_heads
    if not settings.alignment_heads:
        found.append("there are no alignment heads, without which words have no times")
    if any(not (0 <= layer < layers and 0 <= head < heads) for layer, head in settings.alignment_heads):
        found.append(f"an alignment head does not exist: the decoder has {layers} layers with {heads} heads")
    return found


def _vocabulary_problems(converted: Converted) -> list[str]:
    tokens: list[str] = json.loads((converted.folder / VOCABULARY).read_text(encoding="utf-8"))
    settings = converted.settings
    tokenizer, size = converted.adapter.processor.tokenizer, converted.adapter.model.config.vocab_size
    if len(tokens) != size:
        return [f"{VOCABULARY} has {len(tokens)} tokens, but the model has {size}"]
    wanted = {number: token for token, number in tokenizer.get_vocab().items()}
    named = {settings.prompt[0]: "<|startoftranscript|>", settings.eos: "<|endoftext|>"}
    named[settings.prompt[-1]] = "<|notimestamps|>"
    if settings.language is not None:
        named |= {settings.prompt[1]: f"<|{settings.language}|>", settings.prompt[2]: f"<|{settings.task}|>"}
    different = sorted(number for number, token in (wanted | named).items() if tokens[number] != token)
    return [
        f"{VOCABULARY} has {tokens[number]!r} for the token {number} that stands for {(wanted | named)[number]!r}"
        for number in different[:MAX_NAMED]
    ]


def _tokenizer_problems(converted: Converted) -> list[str]:
    written = Tokenizer.from_file(str(converted.folder / TOKENIZER))
    if written.to_str() == converted.adapter.processor.tokenizer.backend_tokenizer.to_str():
        return []
    return [f"{TOKENIZER} is not the tokenizer of the model"]


def _extractor_problems(converted: Converted) -> list[str]:
    written = model_files.read_object(converted.folder / EXTRACTOR)
    wanted = converted.adapter.processor.feature_extractor.to_dict()
    names = ("feature_size", "sampling_rate", "hop_length", "n_fft", "chunk_length")
    found = [
        f"{EXTRACTOR} has the {name} {written.get(name)!r}, but the model has {wanted[name]!r}"
        for name in names
        if written.get(name) != wanted[name]
    ]
    if wanted["feature_size"] != converted.adapter.model.config.num_mel_bins:
        found.append(f"the model has {converted.adapter.model.config.num_mel_bins} mel bins, its features have others")
    return found


def _weight_problems(converted: Converted) -> list[str]:
    written = ctranslate2_files.load_network([converted.folder / WEIGHTS])
    model = converted.adapter.model
    shape = ("encoder_attention_heads", "decoder_attention_heads")
    found = [
        f"{WEIGHTS} has {getattr(written.config, name)} {name}, but the model has {getattr(model.config, name)}"
        for name in shape
        if getattr(written.config, name) != getattr(model.config, name)
    ]
    ours, theirs = model.state_dict(), written.state_dict()
    if different := sorted(set(ours) ^ set(theirs)):
        return [*found, f"{WEIGHTS} has not the tensors of the model: {', '.join(different[:MAX_NAMED])}"]
    wrong = [name for name, tensor in ours.items() if not _is_rounded(tensor, theirs[name], name, converted)]
    if wrong:
        found.append(f"{WEIGHTS} has other numbers than the model in {', '.join(wrong[:MAX_NAMED])}")
    return found


def _loading_problems(converted: Converted) -> list[str]:
    """CTranslate2 decides by the vocabulary whether a model is multilingual, and faster-whisper asks it for that."""
    model = ctranslate2.models.Whisper(str(converted.folder), device="cpu", intra_threads=1)
    is_multilingual = converted.settings.language is not None
    found = []
    if model.is_multilingual != is_multilingual:
        found.append(
            f"CTranslate2 takes the model for {'an English-only' if is_multilingual else 'a multilingual'} one"
        )
    if model.n_mels != converted.settings.num_mels:
        found.append(f"CTranslate2 finds {model.n_mels} mel bins, but the model has {converted.settings.num_mels}")
    return found


def _is_rounded(tensor: Tensor, written: Tensor, name: str, converted: Converted) -> bool:
    """Return whether ``written`` is ``tensor`` but for the rounding of the type in which it is stored."""
    if tensor.shape != written.shape or not torch.isfinite(written).all():
        return False
    kind = converted.stored_type
    if kind == "float32" or (kind == "int8" and not _is_quantized(tensor, name)):
        return torch.equal(tensor, written)
    size = tensor.abs()
    if kind == "int8":
        size = size.amax(tuple(range(1, tensor.dim())), keepdim=True)
    limit = (HALF_STEP[kind] * size).clamp(min=SMALLEST) * 1.001
    return bool(((tensor - written).abs() <= limit).all())


def _is_quantized(tensor: Tensor, name: str) -> bool:
    """Whether CTranslate2 quantizes this tensor: matrices and convolutions, but no positions."""
    return tensor.dim() > 1 and "embed_positions" not in name


CHECKS = (
    _settings_problems,
    _config_problems,
    _vocabulary_problems,
    _tokenizer_problems,
    _extractor_problems,
    _weight_problems,
)


def _settings(adapter: WhisperAdapter, source: Path) -> WhisperSettings:
    return whisper.settings_of(adapter, is_specialized=saved.record(source) is not None)


def _language_ids(adapter: WhisperAdapter) -> list[int]:
    return sorted((getattr(adapter.model.generation_config, "lang_to_id", None) or {}).values())


def _pairs(heads: Any) -> tuple[tuple[int, int], ...]:
    return tuple((int(layer), int(head)) for layer, head in heads)
