"""What is wrong with exported CTC models and transducers apart from their texts: labels, metadata, graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr_lightning.errors import ModelError
from asr_lightning.export.graphs import probes
from asr_lightning.export.labels.models import LabelModel, state_of
from asr_lightning.runtime.contract import Samples
from asr_lightning.runtime.formats import FLOAT
from asr_lightning.runtime.labels.features import log_mel
from asr_lightning.runtime.labels.onnx import normalized
from asr_lightning.runtime.labels.texts import read_tokens
from asr_lightning.runtime.onnx_session import open_session


def token_problems(model: LabelModel, path: Path) -> list[str]:
    """Return what is wrong with the labels in ``path``."""
    try:
        tokens = read_tokens(path)
    except (ModelError, OSError, ValueError):
        return [f"{path.name} is missing or does not list the labels in their order"]
    if len(tokens) != len(model.tokens):
        return [f"{path.name} has {len(tokens)} labels, the model has {len(model.tokens)}"]
    if wrong := [number for number, pair in enumerate(zip(tokens, model.tokens, strict=True)) if pair[0] != pair[1]]:
        return [f"{path.name} writes label {wrong[0]} otherwise than the model's tokenizer"]
    return []


def metadata_problems(path: Path, expected: Mapping[str, object]) -> list[str]:
    """Return where the metadata of the graph in ``path`` differs from what sherpa-onnx must find there."""
    try:
        found = open_session(path, 1).get_modelmeta().custom_metadata_map
    except ModelError:
        return []  # the graph is run as well, which reports this
    return [
        f"{path.name} says {name} {found.get(name, 'nothing')!r} in its metadata, the model has {str(value)!r}"
        for name, value in expected.items()
        if found.get(name) != str(value)
    ]


def encoder_problems(model: LabelModel, path: Path) -> list[str]:
    """Return what is wrong with the encoder's graph in ``path``."""
    inputs = model.inputs(torch.from_numpy(heard(model)))
    with torch.no_grad():
        result = model.encoder.eval()(*inputs.values())
    expected = result[0] if isinstance(result, tuple) else result
    return _compared(path, {name: value.numpy() for name, value in inputs.items()}, expected, model.settings.variant)


def heard(model: LabelModel) -> Samples:
    """Return a sound as the model gets it: samples ``[T]`` or features ``[M, F]``."""
    sound = probes.sound(2.0, model.settings.sample_rate)
    if model.settings.features is None:
        return normalized(sound) if model.settings.is_normalized else sound
    return log_mel(sound, model.settings.features)


def joint_problems(model: LabelModel, path: Path) -> list[str]:
    """Return what is wrong with the graph in ``path`` that holds prediction network and joint."""
    frames, label, length, state = _decoder_inputs(model)
    assert model.predictor is not None and model.joint is not None
    with torch.no_grad():
        predicted = model.predictor.eval()(label, length, state, state)[0]
        expected = model.joint.eval()(frames, predicted)
    names = ("encoder_outputs", "targets", "target_length", "input_states_1", "input_states_2")
    inputs = dict(zip(names, (frames, label, length, state, state), strict=True))
    return _compared(path, _arrays(inputs), expected, model.settings.variant)


def predictor_problems(model: LabelModel, predictor: Path, joiner: Path) -> list[str]:
    """Return what is wrong with the graphs of the prediction network and of the joint, each by itself."""
    frames, label, length, state = _decoder_inputs(model)
    assert model.predictor is not None and model.joint is not None
    with torch.no_grad():
        predicted = model.predictor.eval()(label, length, state, state)[0]
        logits = model.joint.eval()(frames, predicted)
    own = {"targets": label, "target_length": length, "input_states_1": state, "input_states_2": state}
    joined = {"encoder_outputs": frames, "decoder_outputs": predicted}
    return [
        *_compared(predictor, _arrays(own), predicted, model.settings.variant),
        *_compared(joiner, _arrays(joined), logits, model.settings.variant),
    ]


def _decoder_inputs(model: LabelModel) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A frame of the encoder, a label, its length and half of a state."""
    generator = torch.Generator().manual_seed(0)
    inputs = model.inputs(torch.from_numpy(heard(model)))
    with torch.no_grad():
        frames = model.encoder.eval()(*inputs.values())[0][:1, :, :1]
    state = torch.randn(state_of(model.settings).shape, generator=generator)
    one = torch.ones(1, dtype=torch.int32)
    return frames, one[None] * (model.settings.labels // 2), one, state


def _arrays(inputs: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in inputs.items()}


def _compared(path: Path, inputs: Mapping[str, np.ndarray], expected: Tensor, variant: str) -> list[str]:
    def compute() -> np.ndarray:
        return np.asarray(open_session(path, 1).run(None, dict(inputs))[0])

    return probes.compare(path, finite(expected.numpy()), lambda: finite(compute()), variant != FLOAT)


def finite(values: np.ndarray) -> np.ndarray:
    """The values without the huge ones of labels that are never written."""
    return np.where(values < -1e6, 0.0, values)


def missing(target: Path, names: Sequence[str]) -> list[str]:
    """Return which of the files ``names`` are not in ``target``."""
    return [f"{name} is missing" for name in names if not (target / name).is_file()]
