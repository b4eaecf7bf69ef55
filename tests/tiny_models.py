"""Writes random models with the file layout, ids and quirks of the real checkpoints, in seconds without downloads."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration
from transformers.models.whisper.tokenization_whisper import LANGUAGES
from transformers.utils import logging

from asr_lightning.types import Utterance

MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n"), ("in", "g"), ("Ġ", "o"), ("e", "n")]
SUPPRESS = [1, 2, 7, 8, 9, 10, 14, 25, 26, 27]
NUM_TIMESTAMPS = 1501


def tiny_whisper(directory: Path, multilingual: bool, num_mel_bins: int = 80) -> Path:
    """Write a two-layer Whisper with the layout of OpenAI's checkpoints, including obsolete settings.

    The ids are the real ones: ``.en`` ends text with 50256, the multilingual models with 50257.
    """
    directory.mkdir(parents=True, exist_ok=True)
    ids = _write_tokenizer(directory, multilingual)
    config = _config(ids, num_mel_bins)
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config).eval()
    logging.disable_progress_bar()
    model.save_pretrained(directory)
    logging.enable_progress_bar()
    WhisperFeatureExtractor(feature_size=num_mel_bins).save_pretrained(directory)
    _write_generation_config(directory, ids, multilingual)
    _add_stale_settings(directory, ids)
    return directory


def clip(seconds: float = 1.0, text: str = "open the window", uid: str = "clip", seed: int = 0) -> Utterance:
    """Make a chirp in noise, different for every seed."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(round(seconds * 16_000)) / 16_000
    tone = 0.2 * torch.sin(2 * torch.pi * (200 + 150 * seed + 300 * time) * time)
    return Utterance(uid, tone + 0.02 * torch.randn(len(time), generator=generator), 16_000, text)


def _write_tokenizer(directory: Path, multilingual: bool) -> dict[str, int]:
    """Write a byte-level tokenizer with filler words, so that every special token has its real id."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *("".join(pair) for pair in MERGES)]
    words += [f"filler{number}" for number in range(50256 + multilingual - len(words))]
    if multilingual:
        words[-1] = ""  # as in OpenAI's vocabulary; CTranslate2 takes a model without it for an English-only one
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    languages = [code for code in LANGUAGES if code != "yue"]
    names = ["endoftext", "startoftranscript", *languages, "translate", "transcribe", "startoflm", "startofprev"]
    specials = [f"<|{name}|>" for name in [*names, "nocaptions", "notimestamps"]]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.save(str(directory / "tokenizer.json"))
    return {token: tokenizer.token_to_id(token) for token in specials}


def _config(ids: dict[str, int], num_mel_bins: int) -> WhisperConfig:
    return WhisperConfig(
        vocab_size=ids["<|notimestamps|>"] + 1 + NUM_TIMESTAMPS,
        num_mel_bins=num_mel_bins,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"],
        bos_token_id=ids["<|endoftext|>"],
        # larger than upstream's 0.02, so that different clips give different texts
        init_std=0.3,
    )


def _write_generation_config(directory: Path, ids: dict[str, int], multilingual: bool) -> None:
    """Write the fields of openai/whisper-tiny's and whisper-tiny.en's ``generation_config.json``."""
    end, notimestamps = ids["<|endoftext|>"], ids["<|notimestamps|>"]
    content: dict[str, object] = {
        "alignment_heads": [[1, 0], [1, 1]],
        "begin_suppress_tokens": [220, end],
        "bos_token_id": end,
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "eos_token_id": end,
        "forced_decoder_ids": [[1, None], [2, ids["<|transcribe|>"]]] if multilingual else [[1, notimestamps]],
        "is_multilingual": multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "no_timestamps_token_id": notimestamps,
        "pad_token_id": end,
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
        "suppress_tokens": [*SUPPRESS, ids["<|startoftranscript|>"], ids["<|startoflm|>"]],
    }
    if multilingual:
        first, last = ids["<|startoftranscript|>"], ids["<|translate|>"]
        content["lang_to_id"] = {token: number for token, number in ids.items() if first < number < last}
        content["task_to_id"] = {name: ids[f"<|{name}|>"] for name in ("transcribe", "translate")}
    (directory / "generation_config.json").write_text(json.dumps(content, indent=2))


def _add_stale_settings(directory: Path, ids: dict[str, int]) -> None:
    """Add the generation settings of 2022 that OpenAI's ``config.json`` still has."""
    path = directory / "config.json"
    content = json.loads(path.read_text())
    content |= {"max_length": 448, "forced_decoder_ids": [[1, ids["<|en|>"]], [2, ids["<|transcribe|>"]]]}
    path.write_text(json.dumps(content, indent=2))
