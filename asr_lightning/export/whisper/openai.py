"""Whisper as OpenAI's own file, which ``whisper.load_model("model.pt")`` of the package openai-whisper reads.

The package reads in the 30 s window only. A file names no alignment heads, so for the times of words the package takes
the heads of the decoder's upper half.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asr_lightning.errors import ModelError
from asr_lightning.export.whisper.folder import WhisperFolder
from asr_lightning.export.whisper.openai_layout import (
    dims,
    openai_tensors,
    refuse_unlike,
    setting_problems,
    shape_problems,
    value_problems,
)

FILE_NAME = "model.pt"
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
CLOSE = {torch.float16: 2e-3, torch.float32: 0.0}
"""Largest relative distance of intact weights; that of whisper-tiny.en in float16 is 2e-4."""


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write ``model.pt`` to ``target`` and return the settings for reading audio.

    Raises:
        ModelError: openai-whisper cannot hold the model.
    """
    folder = WhisperFolder(source)
    settings = folder.settings()
    refuse_unlike(folder, settings)
    weights = {
        name: torch.from_numpy(np.array(tensor)).to(DTYPES[variant]) for name, tensor in openai_tensors(folder).items()
    }
    torch.save({"dims": dims(folder), "model_state_dict": weights}, target / FILE_NAME)
    return settings.as_json()


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the file in ``target``, as sentences."""
    path = target / FILE_NAME
    try:
        folder, content = WhisperFolder(source), torch.load(path, map_location="cpu", weights_only=True)
        found = [*_content_problems(folder, content), *setting_problems(folder, settings)]
        return [f"{FILE_NAME}: {problem}" for problem in found]
    except (OSError, ModelError) as error:
        return [str(error)]
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        return [f"{FILE_NAME} is damaged: {error}"]


def _content_problems(folder: WhisperFolder, content: Any) -> Iterator[str]:
    if not isinstance(content, dict) or set(content) != {"dims", "model_state_dict"}:
        yield "it does not hold dims and model_state_dict alone"
        return
    if content["dims"] != dims(folder):
        yield f"its dims {content['dims']} are not those of the model, {dims(folder)}"
    weights = {name: tensor for name, tensor in content["model_state_dict"].items() if isinstance(tensor, torch.Tensor)}
    wrong = shape_problems(folder, {name: tuple(tensor.shape) for name, tensor in weights.items()})
    yield from wrong
    if not wrong:
        triples = ((name, tensor.float().numpy(), CLOSE.get(tensor.dtype, 0.0)) for name, tensor in weights.items())
        yield from value_problems(folder, triples)
