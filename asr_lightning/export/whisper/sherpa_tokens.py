"""What sherpa-onnx reads beside the graphs of a Whisper: the file ``tokens.txt``, and metadata in the encoder."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.runtime.whisper.settings import WhisperSettings

FILE_NAME = "tokens.txt"


def write(tokenizer: Any, eos: int, folder: Path) -> None:
    """Write the bytes that each token of text stands for, in base64; sherpa-onnx writes no other token."""
    (folder / FILE_NAME).write_text(_content(tokenizer, eos), encoding="ascii")


def problems(tokenizer: Any, eos: int, folder: Path) -> list[str]:
    """Say what is wrong with the file in ``folder``."""
    path = folder / FILE_NAME
    if not path.is_file():
        return [f"{FILE_NAME} is missing"]
    if path.read_bytes() != _content(tokenizer, eos).encode("ascii"):
        return [f"{FILE_NAME} does not hold the tokens of the model"]
    return []


def _content(tokenizer: Any, eos: int) -> str:
    values = {character: value for value, character in bytes_to_unicode().items()}
    pieces = sorted((token, piece) for piece, token in tokenizer.get_vocab().items() if token < eos and piece)
    lines = [f"{base64.b64encode(bytes(values[c] for c in piece)).decode()} {token}\n" for token, piece in pieces]
    return "".join(lines)


def metadata(adapter: WhisperAdapter, settings: WhisperSettings) -> dict[str, str]:
    """Return what sherpa-onnx reads from the encoder, in its names. Source: its ``scripts/whisper/export-onnx.py``."""
    config, generation = adapter.model.config, adapter.model.generation_config
    ids = adapter.processor.tokenizer.get_vocab()
    languages = getattr(generation, "lang_to_id", None) or {}
    values = {
        "model_type": "whisper",
        "version": 1,
        "n_mels": settings.num_mels,
        "n_audio_ctx": config.max_source_positions,
        "n_audio_state": config.d_model,
        "n_audio_head": config.encoder_attention_heads,
        "n_audio_layer": config.encoder_layers,
        "n_vocab": config.vocab_size,
        "n_text_ctx": config.max_target_positions,
        "n_text_state": config.d_model,
        "n_text_head": config.decoder_attention_heads,
        "n_text_layer": config.decoder_layers,
        "n_alignment_heads": len(settings.alignment_heads),
        "sot_sequence": _joined(settings.prompt[:-1]),
        "all_language_tokens": _joined(languages.values()),
        "all_language_codes": _joined(code.strip("<|>") for code in languages),
        "sot": settings.prompt[0],
        "sot_index": 0,
        "eot": settings.eos,
        "blank_id": ids.get("Ġ", 220),
        "is_multilingual": int(settings.language is not None),
        "no_speech": ids.get("<|nospeech|>", ids.get("<|nocaptions|>", settings.prompt[-1] - 1)),
        "non_speech_tokens": _joined(settings.suppress),
        "transcribe": ids["<|transcribe|>"],
        "translate": ids["<|translate|>"],
        "sot_prev": ids["<|startofprev|>"],
        "sot_lm": ids["<|startoflm|>"],
        "no_timestamps": settings.prompt[-1],
    }
    return {name: str(value) for name, value in values.items()}


def _joined(values: Any) -> str:
    return ",".join(map(str, values))
