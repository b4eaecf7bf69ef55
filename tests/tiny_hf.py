"""Writes random Moonshine, wav2vec2-like and Parakeet folders with the layout and quirks of the real checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCTC,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    MoonshineStreamingConfig,
    MoonshineStreamingForConditionalGeneration,
    ParakeetFeatureExtractor,
    ParakeetProcessor,
    ParakeetTokenizer,
    PreTrainedTokenizerFast,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
)
from transformers.utils import logging

MERGES = [("t", "h"), ("th", "e"), ("▁", "the"), ("i", "n"), ("in", "g"), ("▁", "o"), ("e", "n"), ("▁", "w")]
UMLAUTS = "äöüß"
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tiny_moonshine(directory: Path, streaming: bool = False, **changes: Any) -> Path:
    """Write a Moonshine with two layers in encoder and decoder.

    The ids are those of the real checkpoints: unknown 0, start 1, end 2, bytes from 3 on. The first generation has no
    pad token in its configuration, the streaming one has 0.
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
        layers = {
            f"{side}_num_{what}": 2 for side in ("encoder", "decoder") for what in ("hidden_layers", "attention_heads")
        }
        own = layers | {"max_position_embeddings": 194, "initializer_range": 0.05}
        model = MoonshineForConditionalGeneration(MoonshineConfig(**(shape | own | changes)))
    return save(model, directory)


RAW = ("wav2vec2", "wav2vec2-group", "hubert", "wavlm", "mms")
CTC_KINDS = (*RAW, "parakeet_ctc")
TRANSDUCER_KINDS = ("parakeet_rnnt", "parakeet_tdt")


def tiny_ctc(directory: Path, kind: str, **changes: Any) -> Path:
    """Write a wav2vec2-like model or a Parakeet with a CTC head.

    The letters are capitals, as in facebook/wav2vec2-base-960h. ``-group`` has that model's GroupNorm front end, the
    others have LayerNorm. MMS has two languages with small letters; German has four more letters.
    """
    if kind == "parakeet_ctc":
        return _tiny_parakeet(directory, kind, **changes)
    directory.mkdir(parents=True, exist_ok=True)
    group = kind == "wav2vec2-group"
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=not group).save_pretrained(directory)
    num_labels = _write_letters(directory, kind)
    shape = {
        "vocab_size": num_labels, "pad_token_id": 0, "hidden_size": 48, "intermediate_size": 96, "conv_dim": [24] * 7,
        "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_dropout": 0.0, "attention_dropout": 0.0,
        "activation_dropout": 0.0, "feat_proj_dropout": 0.0, "final_dropout": 0.0,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": "group" if group else "layer", "do_stable_layer_norm": not group, "conv_bias": not group,
    }  # fmt: skip
    if kind == "mms":
        shape["adapter_attn_dim"] = 8
    torch.manual_seed(0)
    model = AutoModelForCTC.from_config(
        AutoConfig.for_model(kind.split("-")[0].replace("mms", "wav2vec2"), **shape | changes)
    )
    if kind == "mms":
        for number, language in enumerate(("eng", "deu")):
            tensors = {name: tensor + 0.01 * number for name, tensor in model._get_adapters().items()}
            if language == "deu":
                for name in ("lm_head.weight", "lm_head.bias"):
                    tensors[name] = torch.cat([tensors[name], torch.randn_like(tensors[name][: len(UMLAUTS)])])
            save_file(tensors, directory / f"adapter.{language}.safetensors", metadata={"format": "pt"})
    return save(model, directory)


def _write_letters(directory: Path, kind: str) -> int:
    letters = LETTERS if kind == "mms" else LETTERS.upper()
    labels = ["<pad>", "<s>", "</s>", "<unk>", "|", *letters, "'"]
    vocabulary: dict[str, Any] = {label: number for number, label in enumerate(labels)}
    language = "eng" if kind == "mms" else None
    if language:
        german = vocabulary | {letter: len(labels) + number for number, letter in enumerate(UMLAUTS)}
        vocabulary = {"eng": vocabulary, "deu": german}
    (directory / "vocab.json").write_text(json.dumps(vocabulary))
    Wav2Vec2CTCTokenizer(str(directory / "vocab.json"), target_lang=language).save_pretrained(directory)
    return len(labels)


def tiny_transducer(directory: Path, kind: str, **changes: Any) -> Path:
    """Write a Parakeet with a transducer, RNNT or TDT."""
    return _tiny_parakeet(directory, kind, **changes)


def _tiny_parakeet(directory: Path, kind: str, **changes: Any) -> Path:
    """Write the layout of transformers' ``convert_nemo_to_hf.py``.

    The pad token is the blank of CTC models, and an ordinary piece of transducers.
    """
    pieces = ["<unk>", "<pad>", "▁", *LETTERS, "'", *("".join(pair) for pair in MERGES)]
    blank = "<pad>" if kind == "parakeet_ctc" else "<blank>"
    pieces = [piece for piece in pieces if piece != blank] + [blank]
    tokenizer = Tokenizer(
        models.BPE({piece: n for n, piece in enumerate(pieces)}, MERGES, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in {"<unk>", "<pad>", blank}])
    fast = ParakeetTokenizer(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
    directory.mkdir(parents=True, exist_ok=True)
    ParakeetProcessor(ParakeetFeatureExtractor(), fast, decoder_type=kind.split("_")[1]).save_pretrained(directory)
    encoder = {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "subsampling_conv_channels": 8, "model_type": "parakeet_encoder", "dropout": 0.0, "attention_dropout": 0.0,
        "activation_dropout": 0.0,
    }  # fmt: skip
    own: dict[str, Any] = {"encoder_config": encoder, "vocab_size": len(pieces), "pad_token_id": pieces.index("<pad>")}
    if kind != "parakeet_ctc":
        own |= {"blank_token_id": pieces.index(blank), "decoder_hidden_size": 32, "num_decoder_layers": 1}
        own |= {"decoder_start_token_id": pieces.index(blank)}
    torch.manual_seed(0)
    factory = {"parakeet_ctc": AutoModelForCTC}.get(kind, AutoModel)
    return save(factory.from_config(AutoConfig.for_model(kind, **own | changes)), directory)


def save(model: Any, directory: Path) -> Path:
    """Write ``model`` without a progress bar."""
    logging.disable_progress_bar()
    model.eval().save_pretrained(directory)
    logging.enable_progress_bar()
    return directory


def bytes_tokenizer() -> Tokenizer:
    """Make a SentencePiece-like tokenizer that falls back on bytes."""
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


KINDS = ("moonshine", "moonshine_streaming", *CTC_KINDS, *TRANSDUCER_KINDS)
"""Every Hugging Face family except Whisper."""


def write_tiny(directory: Path, kind: str, **changes: Any) -> Path:
    """Write the tiny model of ``kind`` to ``directory``."""
    if kind in TRANSDUCER_KINDS:
        return tiny_transducer(directory, kind, **changes)
    if kind in CTC_KINDS:
        return tiny_ctc(directory, kind, **changes)
    return tiny_moonshine(directory, streaming=kind == "moonshine_streaming", **changes)


def load_tiny(directory: Path, kind: str, **options: Any) -> Any:
    """Load the adapter of a folder that ``write_tiny`` made."""
    from asr_lightning.adapters.hf_ctc import HFCTCAdapter
    from asr_lightning.adapters.hf_transducer import HFTransducerAdapter
    from asr_lightning.adapters.moonshine import MoonshineAdapter

    if kind in TRANSDUCER_KINDS:
        return HFTransducerAdapter(str(directory), **options)
    if kind in CTC_KINDS:
        return HFCTCAdapter(str(directory), **({"language": "deu"} if kind == "mms" else {}), **options)
    return MoonshineAdapter(str(directory), **options)
