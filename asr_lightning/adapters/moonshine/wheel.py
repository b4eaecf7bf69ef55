"""Moonshine tiny from the wheel moonshine-voice 0.0.48: ONNX Runtime's files turned back into network and tokenizer.

Encoder and decoder in the wheel are an export of transformers' own ``MoonshineForConditionalGeneration``, quantised by
ONNX Runtime. Matrix products have uint8 weights, each with one scale and one zero point. These weights have lost their
names, but the nodes that multiply by them have the path of their module. Convolutions, norms and biases are float32 and
have their names, except GroupNorm's two vectors. ONNX Runtime also rounds activations; here they stay float.

Used by ``loading.py``, which has verified the hashes of the files, so that their layout is known.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import (
    GenerationConfig,
    MoonshineConfig,
    MoonshineForConditionalGeneration,
    PreTrainedTokenizerFast,
    Wav2Vec2FeatureExtractor,
)

from asr_lightning.adapters.moonshine.ort import Array, Graph

MAX_POSITIONS = 194
"""Number of positions of the decoder. The wheel lacks it, as it lacks the pad token and the padded head width below.
Source: ``config.json`` of moonshine-ai/moonshine-tiny."""

ENCODER_NAMES = r"(layers\.\d+\.\w+|layers\.\d+\.mlp\.fc\d|layer_norm|conv\d)\.(weight|bias)"
DECODER_NAMES = r"model\.decoder\.(layers\.\d+\.[\w.]+|norm)\.(weight|bias)"

BYTES = range(3, 259)
"""Ids of the tokens that stand for one byte each."""

LINE_SEPARATOR = 31353
"""Id of U+2028, which is empty in ``tokenizer.bin``: the program that wrote the file took it for the end of a line."""

FIRST_SPECIAL = 32_000
"""Ids from here on are the special tokens ``<<ST_n>>``."""


def load_network(encoder: Path, decoder: Path) -> MoonshineForConditionalGeneration:
    """Load the network in float32 and eval mode, with every weight from the two ``.ort`` files."""
    state = _encoder_weights(Graph(encoder.read_bytes())) | _decoder_weights(Graph(decoder.read_bytes()))
    config = MoonshineConfig(max_position_embeddings=MAX_POSITIONS, pad_token_id=2, pad_head_dim_to_multiple_of=8)
    load: Any = MoonshineForConditionalGeneration.from_pretrained  # its types lack the report
    model, report = load(None, config=config, state_dict=state, dtype=torch.float32, output_loading_info=True)
    if report["missing_keys"] or report["unexpected_keys"]:  # or transformers would go on with random numbers
        raise RuntimeError(f"transformers no longer knows the weights of the wheel: {report}")
    model.generation_config = GenerationConfig(
        bos_token_id=1, decoder_start_token_id=1, eos_token_id=2, pad_token_id=2, max_length=MAX_POSITIONS
    )
    return cast(MoonshineForConditionalGeneration, model)


def _encoder_weights(graph: Graph) -> dict[str, Tensor]:
    weights = dict(_products(graph))
    weights |= _named(graph, r"_add_tensor$", ENCODER_NAMES)
    for node, part in (("/groupnorm/Mul", "weight"), ("/groupnorm/Add", "bias")):
        (vector,) = (graph.tensors[name] for name in graph.nodes[node][1] if name in graph.tensors)
        weights[f"groupnorm.{part}"] = _tensor(vector).reshape(-1)
    return {f"model.encoder.{name}": weight for name, weight in weights.items()}


def _decoder_weights(graph: Graph) -> dict[str, Tensor]:
    """Weights of the decoder and of its embedding, which is the output layer too."""
    embedding = "model.decoder.embed_tokens.weight"
    codes, scale, zero_point = (f"{embedding}_merged_0_{part}" for part in ("quantized", "scale", "zero_point"))
    return {
        **dict(_products(graph)),
        **_named(graph, r"_merged_\d+$", DECODER_NAMES),
        embedding: _tensor(graph.dequantized(codes, scale, zero_point)),
    }


def _products(graph: Graph) -> Iterator[tuple[str, Tensor]]:
    for node, weight in graph.products():
        module = node.removeprefix("/").removesuffix("/MatMul_quant").replace("/", ".")
        yield f"{module}.weight", _tensor(weight)


def _named(graph: Graph, ending: str, names: str) -> dict[str, Tensor]:
    """Constants whose names, without the exporter's ``ending``, match the pattern ``names``."""
    plain = {re.sub(ending, "", name): array for name, array in graph.tensors.items()}
    return {name: _tensor(array) for name, array in plain.items() if re.fullmatch(names, name)}


def _tensor(array: Array) -> Tensor:
    """Copy ``array`` into a tensor with torch's order of elements."""
    return torch.from_numpy(np.array(array, np.float32, order="C"))


def load_extractor() -> Wav2Vec2FeatureExtractor:
    """Make Moonshine's feature extractor: 16 kHz, not normalised. Source: its ``preprocessor_config.json``."""
    return Wav2Vec2FeatureExtractor(
        feature_size=1, sampling_rate=16_000, padding_value=0.0, do_normalize=False, return_attention_mask=True
    )


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Load the tokenizer of ``tokenizer.bin``, which lists all tokens in the order of their ids."""
    settings = _tokenizer_settings(_pieces(path.read_bytes()))
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(settings)),
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="</s>",
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
    )


def _pieces(data: bytes) -> list[str]:
    """Read the tokens in the order of their ids, spelled as in a ``tokenizer.json``."""
    pieces: list[str] = []
    at = 0
    while at < len(data):
        length, at = data[at], at + 1
        if length > 127:  # the length has two bytes, of which the first holds seven bits
            length, at = length - 128 + 128 * data[at], at + 1
        token, at = data[at : at + length], at + length
        pieces.append(f"<0x{token[0]:02X}>" if len(pieces) in BYTES else token.decode())
    pieces[LINE_SEPARATOR] = "\u2028"
    return pieces


def _merges(vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return every way to put a token together from two others, in the order of the token and then of both halves.

    Ids follow the order in which tokens were learned, so this is the order of merging; tokens of blanks alone come
    last. The result equals, entry for entry, the 61249 merges of the published ``tokenizer.json``.
    """
    merges: list[tuple[str, str]] = []
    for piece in sorted(vocabulary, key=lambda piece: (set(piece) == {"▁"}, vocabulary[piece])):
        halves = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        known = [(left, right) for left, right in halves if left in vocabulary and right in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return merges


def _tokenizer_settings(pieces: Sequence[str]) -> dict[str, object]:
    """Return the content of ``tokenizer.json``: pieces in Llama's style, and bytes for text that no piece covers."""
    vocabulary = {piece: number for number, piece in enumerate(pieces[:FIRST_SPECIAL])}
    special = [0, 1, 2, *range(FIRST_SPECIAL, len(pieces))]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": pieces[number], **plain} for number in special],
        "normalizer": _sequence(
            "normalizers",
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ),
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [*_with_start("A", 0)],
            "pair": [*_with_start("A", 0), *_with_start("B", 1)],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": _sequence(
            "decoders",
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ),
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": _merges(vocabulary),
        },
    }


def _sequence(key: str, *steps: dict[str, object]) -> dict[str, object]:
    return {"type": "Sequence", key: list(steps)}


def _with_start(sequence: str, type_id: int) -> list[dict[str, object]]:
    """Return a template of the start token and then the text called ``sequence``."""
    return [
        {"SpecialToken": {"id": "<s>", "type_id": type_id}},
        {"Sequence": {"id": sequence, "type_id": type_id}},
    ]
