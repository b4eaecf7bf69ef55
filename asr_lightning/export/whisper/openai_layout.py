"""OpenAI's layout of Whisper, which openai-whisper, whisper.cpp and MLX share: sizes, names, fixed tokens. No torch.

Those three derive the ids of special tokens and some sizes from others in place of reading them, and abort or write
nonsense where a model differs. So such models are refused here, with the reason. Source: ``model.py`` and
``tokenizer.py`` of openai/whisper; whisper.cpp's ``src/whisper-arch.h`` has the same names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from asr_lightning.errors import ModelError
from asr_lightning.export.whisper.folder import Array, WhisperFolder
from asr_lightning.runtime.whisper.settings import WhisperSettings

OUTSIDE = {
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "encoder.conv1": "encoder.conv1",
    "encoder.conv2": "encoder.conv2",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.embed_tokens": "decoder.token_embedding",
    "decoder.layer_norm": "decoder.ln",
}
"""Names outside the layers."""
ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
LAYER = {
    **{f"self_attn.{theirs}": f"attn.{ours}" for theirs, ours in ATTENTION.items()},
    **{f"encoder_attn.{theirs}": f"cross_attn.{ours}" for theirs, ours in ATTENTION.items()},
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
    "final_layer_norm": "mlp_ln",
}
"""Names inside a layer."""
TIED = "proj_out.weight"
"""The output layer, which is the embedding under another name; OpenAI's layout has it once."""
LORA = ("lora_", "base_layer", "base_model", "modules_to_save")
VOCABULARIES = (51864, 51865, 51866)
"""Sizes of the English-only vocabulary, the multilingual one, and that with Cantonese (large-v3)."""
INSTEAD = "take --to ctranslate2"


def dims(folder: WhisperFolder) -> dict[str, int]:
    """Return the sizes under OpenAI's names, in the order of whisper.cpp's files."""
    return {
        "n_vocab": folder.size("vocab_size"),
        "n_audio_ctx": folder.size("max_source_positions"),
        "n_audio_state": folder.size("d_model"),
        "n_audio_head": folder.size("encoder_attention_heads"),
        "n_audio_layer": folder.size("encoder_layers"),
        "n_text_ctx": folder.size("max_target_positions"),  # whisper.cpp's converter takes max_length, often null
        "n_text_state": folder.size("d_model"),
        "n_text_head": folder.size("decoder_attention_heads"),
        "n_text_layer": folder.size("decoder_layers"),
        "n_mels": folder.size("num_mel_bins"),
    }


def refuse_unlike(folder: WhisperFolder, settings: WhisperSettings) -> None:
    """Refuse a model that differs in what these runtimes take for granted.

    Raises:
        ModelError: It does; the message says in what.
    """
    vocabulary, width = folder.size("vocab_size"), folder.size("d_model")
    if vocabulary not in VOCABULARIES:
        raise ModelError(
            f"{folder.path} has a vocabulary of {vocabulary} tokens, and this runtime, which derives the ids of "
            f"special tokens from the size, knows {', '.join(map(str, VOCABULARIES))}: train without added tokens, or "
            f"{INSTEAD}"
        )
    own = {"start": settings.prompt[0], "end": settings.eos, "first timestamp": settings.timestamp_begin}
    for name, token in _derived_tokens(vocabulary).items():
        if own[name] != token:
            raise ModelError(
                f"{folder.path} has {own[name]} as its {name} token, and this runtime takes {token} for a vocabulary "
                f"of {vocabulary}: {INSTEAD}"
            )
    for side in ("encoder", "decoder"):
        if (inner := folder.size(f"{side}_ffn_dim")) != 4 * width:
            raise ModelError(
                f"{folder.path} has {inner} for {side}_ffn_dim, and this runtime computes with four times d_model, "
                f"{4 * width}: {INSTEAD}"
            )
    if folder.config.get("activation_function", "gelu") != "gelu" or folder.config.get("scale_embedding"):
        raise ModelError(f"{folder.path} differs from Whisper in activation_function or scale_embedding: {INSTEAD}")


def _derived_tokens(vocabulary: int) -> dict[str, int]:
    """The special tokens as whisper.cpp's ``whisper_vocab`` and OpenAI's tokenizer derive them from the size."""
    is_multilingual = vocabulary >= 51865
    return {
        "start": 50257 + is_multilingual,
        "end": 50256 + is_multilingual,
        "first timestamp": 50363 + vocabulary - 51864,  # one more for each language, and for the unused token 50256
    }


def value_problems(folder: WhisperFolder, written: Iterable[tuple[str, Array, float]]) -> Iterator[str]:
    """Yield where weights that were written are not those of ``folder``.

    Args:
        folder: The model.
        written: OpenAI's name of each weight, its values, and the largest relative distance of intact ones.
    """
    own = openai_tensors(folder)
    for name, values, limit in written:
        wanted = np.asarray(own[name], np.float32)
        with np.errstate(all="ignore"):  # damaged weights may be infinite
            difference = np.linalg.norm(np.asarray(values, np.float32).reshape(wanted.shape) - wanted)
        distance = float(difference) / max(float(np.linalg.norm(wanted)), 1e-20)
        if not distance <= limit:  # also true of NaN
            yield f"{name} is not that of the model: its relative distance is {distance:.3g}"


def setting_problems(folder: WhisperFolder, settings: Mapping[str, object]) -> Iterator[str]:
    """Yield where ``settings``, as ``export.json`` has them, are not those of ``folder``."""
    try:
        if WhisperSettings.from_json(settings) != folder.settings():
            yield "the settings for reading audio are not those of the model"
    except (KeyError, TypeError, ValueError) as error:
        yield f"the settings for reading audio cannot be read: {error!r}"


def openai_name(name: str) -> str | None:
    """Return OpenAI's name for the Hugging Face weight ``name``; None if there is none."""
    plain = name.removeprefix("model.")
    if plain in OUTSIDE:
        return OUTSIDE[plain]
    module, _, kind = plain.rpartition(".")
    if module in OUTSIDE:
        return f"{OUTSIDE[module]}.{kind}"
    match = re.fullmatch(r"(encoder|decoder)\.layers\.(\d+)\.(.+)", module)
    if match and match[3] in LAYER:
        return f"{match[1]}.blocks.{match[2]}.{LAYER[match[3]]}.{kind}"
    return None


def openai_tensors(folder: WhisperFolder) -> dict[str, Array]:
    """Return the weights of ``folder`` by OpenAI's names, in the order of the files.

    Raises:
        ModelError: There are weights that Whisper does not have, such as those of LoRA, others are missing, or a shape
            contradicts ``config.json``.
    """
    named: dict[str, Array] = {}
    for name, tensor in folder.tensors.items():
        if name == TIED:
            continue
        new = openai_name(name)
        if any(mark in name for mark in LORA):
            raise ModelError(
                f"{folder.path} has {name}, so LoRA was not merged into its weights: load it with peft and save what "
                "merge_and_unload returns"
            )
        if new is None:
            raise ModelError(f"{folder.path} has {name}, which Whisper does not have: copy the model folder again")
        named[new] = tensor
    for wrong in shape_problems(folder, {name: tensor.shape for name, tensor in named.items()}):
        raise ModelError(f"{folder.path}: {wrong}")
    return named


def shape_problems(folder: WhisperFolder, shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return where the names and shapes of weights, by OpenAI's names, differ from those that ``config.json`` implies.

    LoRA and other additions are among them, since Whisper has no such names.
    """
    wanted = dict(_shapes(folder))
    problems = [f"the weights lack {name}" for name in wanted if name not in shapes]
    for name in sorted(set(shapes) - set(wanted)):
        lora = ", so LoRA was not merged" if any(mark in name for mark in LORA) else ""
        problems.append(f"the weights have {name}, which Whisper does not have{lora}")
    problems += [
        f"{name} has the shape {list(shapes[name])}, and config.json implies {list(shape)}"
        for name, shape in wanted.items() if name in shapes and tuple(shapes[name]) != shape
    ]  # fmt: skip
    return problems


def _shapes(folder: WhisperFolder) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = folder.size("d_model")
    yield "encoder.conv1.weight", (width, folder.size("num_mel_bins"), 3)
    yield "encoder.conv1.bias", (width,)
    yield "encoder.conv2.weight", (width, width, 3)
    yield "encoder.conv2.bias", (width,)
    yield "encoder.positional_embedding", (folder.size("max_source_positions"), width)
    yield "decoder.positional_embedding", (folder.size("max_target_positions"), width)
    yield "decoder.token_embedding.weight", (folder.size("vocab_size"), width)
    for norm in ("encoder.ln_post", "decoder.ln"):
        yield from _linear(norm, width)
    for side in ("encoder", "decoder"):
        for number in range(folder.size(f"{side}_layers")):
            yield from _layer(f"{side}.blocks.{number}", width, folder.size(f"{side}_ffn_dim"), side == "decoder")


def _layer(prefix: str, width: int, inner: int, has_cross: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    for attention in ("attn", "cross_attn") if has_cross else ("attn",):
        yield from _linear(f"{prefix}.{attention}_ln", width)
        for part in ("query", "value", "out"):
            yield from _linear(f"{prefix}.{attention}.{part}", width, width)
        yield f"{prefix}.{attention}.key.weight", (width, width)  # has no bias
    yield from _linear(f"{prefix}.mlp_ln", width)
    yield from _linear(f"{prefix}.mlp.0", inner, width)
    yield from _linear(f"{prefix}.mlp.2", width, inner)


def _linear(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
