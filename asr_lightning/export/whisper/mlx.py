"""Whisper in the layout of mlx-examples: weights and configuration as mlx_whisper reads them. Loads no torch.

mlx_whisper reads in the 30 s window only. It computes the encoder's positions in place of reading them, and takes the
alignment heads from the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from asr_lightning.adapters import model_files
from asr_lightning.errors import ModelError
from asr_lightning.export.whisper.folder import Array, WhisperFolder, read_safetensors
from asr_lightning.export.whisper.openai_layout import (
    INSTEAD,
    dims,
    openai_tensors,
    refuse_unlike,
    setting_problems,
    shape_problems,
    value_problems,
)

WEIGHTS, CONFIG = "weights.safetensors", "config.json"
HEADS = "alignment_heads"
POSITIONS = "encoder.positional_embedding"
DTYPES: dict[str, str] = {"fp16": "<f2", "fp32": "<f4"}
CLOSE = {"float16": 2e-3, "float32": 0.0}
"""Largest relative distance of intact weights; that of whisper-tiny.en in float16 is 2e-4."""
MOST_DRIFT = 2e-3
"""Of an encoder position from its sinusoid: float16 leaves 5e-4."""


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write weights and configuration to ``target`` and return the settings for reading audio.

    Raises:
        ModelError: mlx_whisper cannot hold the model.
    """
    folder = WhisperFolder(source)
    settings = folder.settings()
    refuse_unlike(folder, settings)
    weights: dict[str, Array] = {}
    for name, tensor in openai_tensors(folder).items():
        if name == POSITIONS:
            _refuse_trained_positions(folder, tensor)
        else:
            weights[_mlx_name(name)] = np.ascontiguousarray(_mlx_order(tensor), DTYPES[variant])
    if settings.alignment_heads:
        weights[HEADS] = np.array(settings.alignment_heads, np.int64)
    save_file(weights, target / WEIGHTS)
    (target / WEIGHTS).chmod(0o644)  # safetensors leaves it to its owner alone
    (target / CONFIG).write_text(json.dumps({**dims(folder), "model_type": "whisper"}, indent=4) + "\n")
    return settings.as_json()


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the files in ``target``, as sentences."""
    try:
        folder = WhisperFolder(source)
        config = model_files.read_object(target / CONFIG)
        found = [*_weight_problems(folder, target / WEIGHTS), *setting_problems(folder, settings)]
        if config != {**dims(folder), "model_type": "whisper"}:
            found.append(f"{CONFIG} has other sizes than the model")
        return found
    except (OSError, ModelError) as error:
        return [str(error)]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{WEIGHTS} is damaged: {error}"]


def sinusoids(length: int, channels: int) -> Array:
    """Return Whisper's fixed positions ``[length, channels]``. Source: openai/whisper ``model.py``."""
    scales = np.exp(-np.log(10_000) / (channels // 2 - 1) * np.arange(channels // 2))
    angles = np.arange(length)[:, None] * scales
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def _refuse_trained_positions(folder: WhisperFolder, positions: Array) -> None:
    drift = float(np.abs(np.asarray(positions, np.float32) - sinusoids(*positions.shape)).max())
    if not drift <= MOST_DRIFT:
        raise ModelError(
            f"the encoder's positions in {folder.path} were trained and are up to {drift:.2g} from the sinusoids that "
            f"mlx_whisper computes: {INSTEAD}"
        )


def _mlx_name(name: str) -> str:
    return name.replace(".mlp.0.", ".mlp1.").replace(".mlp.2.", ".mlp2.")


def _mlx_order(tensor: Array) -> Array:
    """MLX's convolutions have the channels last. The same call undoes it."""
    return tensor.swapaxes(1, 2) if tensor.ndim == 3 else tensor


def _weight_problems(folder: WhisperFolder, path: Path) -> Iterator[str]:
    written: dict[str, Any] = read_safetensors(path)
    heads, own = written.pop(HEADS, None), folder.settings().alignment_heads
    if own and (heads is None or not np.array_equal(heads, own)):
        yield f"{WEIGHTS} does not hold the alignment heads of the model"
    names = {_mlx_name(name): name for name in openai_tensors(folder)}
    plain = {names.get(name, name): _mlx_order(tensor) for name, tensor in written.items()}
    positions = {POSITIONS: (folder.size("max_source_positions"), folder.size("d_model"))}
    wrong = shape_problems(folder, {**{name: tensor.shape for name, tensor in plain.items()}, **positions})
    yield from (f"{WEIGHTS}: {problem}" for problem in wrong)
    if not wrong:
        triples = ((name, tensor, CLOSE.get(tensor.dtype.name, 0.0)) for name, tensor in plain.items())
        yield from (f"{WEIGHTS}: {problem}" for problem in value_problems(folder, triples))
