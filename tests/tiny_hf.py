"""Random Moonshine, wav2vec2-like and Parakeet folders with the layout and quirks of the real checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import (
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    MoonshineStreamingConfig,
    MoonshineStreamingForConditionalGeneration,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)
from transformers.utils import logging

MERGES = [("t", "h"), ("th", "e"), ("▁", "the"), ("i", "n"), ("in", "g"), ("▁", "o"), ("e", "n"), ("▁", "w")]
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tiny_moonshine(directory: Path, streaming: bool = False, **changes: Any) -> Path:
    """Two layers a side. Ids as in the real checkpoints: unknown 0, start 1, end 2, bytes from 3 on.

    The first generation has no pad token in its configuration, the streaming one has 0.
    """
    tokenizer = bytes_tokenizer()
    _write_tokenizer(directory, tokenizer)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(directory)
    shape = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": tokenizer.get_vocab_size()}
    torch.manual_seed(0)
    model: Any
    if streaming:
        encoder = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
                   "num_key_value_heads": 2, "sliding_windows": [[16, 4], [16, 0]]}  # fmt: skip
        own = {"encoder_config": encoder, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
               "decoder_start_token_id": 1}  # fmt: skip
        model = MoonshineStreamingForConditionalGeneration(MoonshineStreamingConfig(**(shape | own | changes)))
    else:
        layers = {f"{side}_num_{what}": 2 for side in ("encoder", "decoder") for what in ("hidden_layers", "attention_heads")}
        own = layers | {"max_position_embeddings": 194, "initializer_range": 0.05}
        model = MoonshineForConditionalGeneration(MoonshineConfig(**(shape | own | changes)))
    return save(model, directory)


def save(model: Any, directory: Path) -> Path:
    """Write ``model`` without a progress bar."""
    logging.disable_progress_bar()
    model.eval().save_pretrained(directory)
    logging.enable_progress_bar()
    return directory


def bytes_tokenizer() -> Tokenizer:
    """A SentencePiece-like tokenizer that falls back on bytes."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256)), "▁", *LETTERS, *LETTERS.upper()]
    pieces += ["'", ".", ",", *("".join(pair) for pair in MERGES)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in pieces[:3]])
    return tokenizer


def _write_tokenizer(directory: Path, tokenizer: Tokenizer) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    )
    fast.save_pretrained(directory)


def edit_json(path: Path, **changes: Any) -> None:
    """Change some entries of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes, indent=2))
