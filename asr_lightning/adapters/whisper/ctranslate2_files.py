"""Reads the weights of a CTranslate2 (faster-whisper) Whisper folder into a Hugging Face network.

Needs no ctranslate2 package and knows no tokens. Used by ``loading.py``.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration

from asr_lightning.adapters.shared import lora

FILE_NAME = "model.bin"

TIED = "decoder/projection/weight"
"""The output layer, which Hugging Face ties to the embedding."""

DTYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
"""Types in the order of their ids. Source: ctranslate2 4.8 ``specs/model_spec.py``, ``_dtype_to_type_id``."""

BINARY_VERSION = 6
"""The only layout that Whisper was ever written in. Source: ctranslate2 4.8 ``CURRENT_BINARY_VERSION``."""

HEAD_WIDTH = 64
"""Width of an attention head in every Whisper of OpenAI, for files that do not record the number of heads. Source:
openai/whisper model card."""


def load_network(parts: Sequence[Path]) -> WhisperForConditionalGeneration:
    """Load the network in float32 and eval mode; quantised weights are multiplied out.

    Args:
        parts: The file ``model.bin``, or the files that it was split into.

    Raises:
        ValueError: The files are cut short, are no Whisper model in CTranslate2's format of the known version, or hold
            LoRA matrices, which no reader of the format knows.
    """
    path = parts[0]
    try:
        variables = _read(parts)
        if found := lora.keys(variables):
            raise ValueError(f"{path} holds {found[0]}, {lora.NOT_MERGED}")
        weights = _state_dict(variables)
        return _network(_config(variables, weights), weights)
    except (struct.error, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is cut short or no CTranslate2 model ({error}): copy or download it again") from error
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} is no complete Whisper model ({error}): convert the original again") from error


class _Joined(io.RawIOBase):
    """Files read as if they were one."""

    def __init__(self, files: Sequence[BinaryIO]) -> None:
        self._files = list(files)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill ``buffer`` from the first file that has bytes left."""
        while self._files:
            if num_bytes := self._files[0].readinto(buffer):  # type: ignore[attr-defined]
                return int(num_bytes)
            del self._files[0]
        return 0


def _read(parts: Sequence[Path]) -> dict[str, Tensor]:
    """Read every variable by its name, with quantised ones multiplied out to float32 and aliases resolved."""
    path = parts[0]
    with ExitStack() as stack:
        file = io.BufferedReader(_Joined([stack.enter_context(part.open("rb")) for part in parts]))
        (version,) = _unpack(file, "I")
        if version != BINARY_VERSION:
            raise ValueError(
                f"{path} has format version {version}, not {BINARY_VERSION}: "
                "it is no CTranslate2 model, or was written by an old release; convert the original again"
            )
        kind = _text(file)
        if kind != "WhisperSpec":
            raise ValueError(f"{path} holds a {kind}, not a WhisperSpec: give the folder of a Whisper model")
        _unpack(file, "I")  # the revision, which only CTranslate2 itself needs
        variables = dict(_variable(file) for _ in range(*_unpack(file, "I")))
        aliases = [(_text(file), _text(file)) for _ in range(*_unpack(file, "I"))]
    # Equal tensors are stored once. Each layer needs its own, or training one would change the others.
    variables.update({alias: variables[name].clone() for alias, name in aliases if alias != TIED})
    return dict(_dequantized(variables))


def _variable(file: BinaryIO) -> tuple[str, Tensor]:
    name = _text(file)
    shape = _unpack(file, f"{_unpack(file, 'B')[0]}I")
    (type_id,) = _unpack(file, "B")
    if type_id >= len(DTYPES):
        raise EOFError(f"{name} has the unknown type {type_id}")
    data = bytearray(_exactly(file, _unpack(file, "I")[0]))
    return name, torch.frombuffer(data, dtype=DTYPES[type_id]).reshape(shape)


def _dequantized(variables: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield float32 weights, divided by their scales: int8 has a scale per output row, int16 one per tensor."""
    for name, value in variables.items():
        scale = variables.get(f"{name}_scale")
        if scale is None:
            yield name, value.float() if value.is_floating_point() else value
        else:
            yield name, value.float() / scale.float().reshape(-1, *[1] * (value.dim() - 1))


def _unpack(file: BinaryIO, code: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{code}", _exactly(file, struct.calcsize(f"<{code}")))


def _text(file: BinaryIO) -> str:
    """Read a string, whose stored length counts its final zero byte."""
    return _exactly(file, _unpack(file, "H")[0])[:-1].decode()


def _exactly(file: BinaryIO, num_bytes: int) -> bytes:
    data = file.read(num_bytes)
    if len(data) < num_bytes:
        raise EOFError(f"{num_bytes} bytes expected at the end, {len(data)} found")
    return data


def _num_layers(variables: dict[str, Tensor], side: str) -> int:
    return len({name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and name.count("/") > 2})


def _state_dict(variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights Hugging Face's names and layout: fused projections are split, and keys have no bias."""
    weights: dict[str, Tensor] = {}
    for conv in ("conv1", "conv2"):
        for part in ("weight", "bias"):
            weights[f"model.encoder.{conv}.{part}"] = variables[f"encoder/{conv}/{part}"]
    for side in ("encoder", "decoder"):
        weights[f"model.{side}.embed_positions.weight"] = variables[f"{side}/position_encodings/encodings"]
        weights.update(_norm(variables, f"{side}/layer_norm", f"model.{side}.layer_norm"))
        for index in range(_num_layers(variables, side)):
            weights.update(_layer(variables, f"{side}/layer_{index}", f"model.{side}.layers.{index}"))
    weights["model.decoder.embed_tokens.weight"] = variables["decoder/embeddings/weight"]
    weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"]
    return weights


def _layer(variables: dict[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    """Return the weights of one layer; only decoder layers have ``attention``, which attends to the encoder."""
    weights = {
        **_norm(variables, f"{source}/self_attention/layer_norm", f"{target}.self_attn_layer_norm"),
        **_split(variables, f"{source}/self_attention/linear_0", f"{target}.self_attn", "qkv"),
        **_linear(variables, f"{source}/self_attention/linear_1", f"{target}.self_attn.out_proj"),
        **_norm(variables, f"{source}/ffn/layer_norm", f"{target}.final_layer_norm"),
        **_linear(variables, f"{source}/ffn/linear_0", f"{target}.fc1"),
        **_linear(variables, f"{source}/ffn/linear_1", f"{target}.fc2"),
    }
    if source.startswith("decoder"):
        weights |= _norm(variables, f"{source}/attention/layer_norm", f"{target}.encoder_attn_layer_norm")
        weights |= _split(variables, f"{source}/attention/linear_0", f"{target}.encoder_attn", "q")
        weights |= _split(variables, f"{source}/attention/linear_1", f"{target}.encoder_attn", "kv")
        weights |= _linear(variables, f"{source}/attention/linear_2", f"{target}.encoder_attn.out_proj")
    return weights


def _norm(variables: dict[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    return {f"{target}.weight": variables[f"{source}/gamma"], f"{target}.bias": variables[f"{source}/beta"]}


def _linear(variables: dict[str, Tensor], source: str, target: str) -> dict[str, Tensor]:
    return {f"{target}.{part}": variables[f"{source}/{part}"] for part in ("weight", "bias")}


def _split(variables: dict[str, Tensor], source: str, target: str, letters: str) -> dict[str, Tensor]:
    """Split the fused projections named by ``letters``; the zero bias that CTranslate2 stores for keys is dropped."""
    weights = {}
    for part in ("weight", "bias"):
        for letter, chunk in zip(letters, variables[f"{source}/{part}"].chunk(len(letters)), strict=True):
            if (letter, part) != ("k", "bias"):
                weights[f"{target}.{letter}_proj.{part}"] = chunk.clone()
    return weights


def _config(variables: dict[str, Tensor], weights: dict[str, Tensor]) -> WhisperConfig:
    """Derive the configuration from the shapes of the weights."""
    width, num_mel_bins, _ = weights["model.encoder.conv1.weight"].shape
    num_heads = {side: variables.get(f"{side}/num_heads", width // HEAD_WIDTH) for side in ("encoder", "decoder")}
    return WhisperConfig(
        vocab_size=weights["model.decoder.embed_tokens.weight"].shape[0],
        num_mel_bins=num_mel_bins,
        d_model=width,
        max_source_positions=weights["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=weights["model.decoder.embed_positions.weight"].shape[0],
        encoder_layers=_num_layers(variables, "encoder"),
        decoder_layers=_num_layers(variables, "decoder"),
        encoder_attention_heads=int(num_heads["encoder"]),
        decoder_attention_heads=int(num_heads["decoder"]),
        encoder_ffn_dim=weights["model.encoder.layers.0.fc1.weight"].shape[0],
        decoder_ffn_dim=weights["model.decoder.layers.0.fc1.weight"].shape[0],
    )


def _network(config: WhisperConfig, weights: dict[str, Tensor]) -> WhisperForConditionalGeneration:
    """Build the network around ``weights``, without initialising any others."""
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    model.load_state_dict(weights, strict=True, assign=True)
    model.tie_weights()
    return model.eval()
