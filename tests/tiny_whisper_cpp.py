"""Writes random Whispers with the proportions that OpenAI's layout takes for granted: four times the width inside."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import WhisperConfig, WhisperForConditionalGeneration

from asr_lightning.adapters.whisper import WhisperAdapter
from tests import tiny_hf
from tests.tiny_models import tiny_whisper


def openai_like(directory: Path, multilingual: bool = False) -> Path:
    """Write a specialized folder as ``save`` does, German if ``multilingual``."""
    plain = tiny_whisper(directory / "plain", multilingual)
    config = WhisperConfig.from_pretrained(plain)
    config.encoder_ffn_dim = config.decoder_ffn_dim = 4 * config.d_model
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config)
    kept = (plain / "generation_config.json").read_text()
    tiny_hf.save(model, plain)
    (plain / "generation_config.json").write_text(kept)
    WhisperAdapter(str(plain), language="de" if multilingual else None).save(directory / "model")
    return directory / "model"


def edit_weights(folder: Path, *, rename: dict[str, str] | None = None, drop: str = "", scale: str = "") -> None:
    """Change the weights of a Hugging Face folder: rename some, leave one out, or double one."""
    path = folder / "model.safetensors"
    tensors = {(rename or {}).get(name, name): tensor.clone() for name, tensor in load_file(path).items()}
    tensors.pop(drop, None)
    if scale:
        tensors[scale] *= 2
    save_file(tensors, path, metadata={"format": "pt"})
