"""CTC models and transducers for onnxruntime and for onnx-asr, which read the same files.

Features are those of NeMo's models. Models over samples, such as wav2vec2, have no layout in onnx-asr.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from asr_lightning.errors import ModelError
from asr_lightning.export.graphs import files as onnx_files
from asr_lightning.export.graphs import probes
from asr_lightning.export.labels import checks as label_checks
from asr_lightning.export.labels.graphs import PredictorAndJoint
from asr_lightning.export.labels.models import LabelModel, load, state_of, write_encoder
from asr_lightning.runtime.formats import FLOAT
from asr_lightning.runtime.labels.features import FeatureSettings
from asr_lightning.runtime.labels.onnx import DECODER_JOINT, ENCODER, MODEL, TOKENS
from asr_lightning.runtime.labels.settings import LabelSettings
from asr_lightning.runtime.labels.texts import write_tokens

CONFIG = "config.json"
KNOWN_FEATURES = tuple(FeatureSettings(mels=mels) for mels in (80, 128))
"""How onnx-asr and sherpa-onnx make features, which they do themselves."""


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write the files of ``variant`` into ``target``."""
    return write(load(source, variant), target)


def write(model: LabelModel, target: Path) -> Mapping[str, object]:
    """Write the files of ``model`` into ``target``, and return its settings."""
    if model.settings.kind == "transducer":
        write_encoder(model, target / ENCODER)
        _write_joint(model, target / DECODER_JOINT)
        graphs = [target / ENCODER, target / DECODER_JOINT]
    else:
        write_encoder(model, target / MODEL)
        graphs = [target / MODEL]
    if model.settings.variant != FLOAT:
        for path in graphs:
            onnx_files.quantize(path)
    write_tokens(target / TOKENS, model.tokens)
    if model.settings.features is not None:
        (target / CONFIG).write_text(json.dumps(config_of(model.settings), indent=2) + "\n", encoding="utf-8")
    return model.settings.as_json()


def config_of(settings: LabelSettings) -> dict[str, object]:
    """Return the content of ``config.json`` for onnx-asr."""
    assert settings.features is not None
    kind = "ctc" if settings.kind == "ctc" else "tdt" if settings.durations else "rnnt"
    return {
        "model_type": f"nemo-conformer-{kind}",
        "features_size": settings.features.mels,
        "subsampling_factor": settings.subsampling,
        "max_tokens_per_step": settings.max_symbols,
    }


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the files in ``target``."""
    model = load(source, str(settings.get("variant", "")))
    found = label_checks.token_problems(model, target / TOKENS)
    if model.settings.kind == "transducer":
        found += label_checks.encoder_problems(model, target / ENCODER)
        found += label_checks.joint_problems(model, target / DECODER_JOINT)
    else:
        found += label_checks.encoder_problems(model, target / MODEL)
    if model.settings.features is not None:
        is_same = probes.same_json(json.dumps(config_of(model.settings)), target / CONFIG)
        found += [] if is_same else [f"{CONFIG} is missing or does not say how the model hears and writes"]
    return found


def require_known(model: LabelModel, reader: str) -> None:
    """Require that ``reader`` makes the features of ``model``, and counts the durations of its TDT as it does.

    Raises:
        ModelError: It does not.
    """
    settings = model.settings
    if settings.features not in KNOWN_FEATURES:
        raise ModelError(f"{reader} makes other features than this model hears ({settings.features}): take --to onnx")
    if settings.durations not in ((), tuple(range(len(settings.durations)))):
        raise ModelError(
            f"{reader} takes the durations of a TDT model for 0, 1, 2, …, and this one has {settings.durations}: take "
            "--to onnx"
        )


def _write_joint(model: LabelModel, path: Path) -> None:
    assert model.predictor is not None and model.joint is not None
    state = state_of(model.settings)
    width = model.encoder.eval()(*model.example.values())[0].shape[1]
    inputs = {
        "encoder_outputs": torch.zeros(1, width, 1),
        "targets": torch.ones(1, 1, dtype=torch.int32),
        "target_length": torch.ones(1, dtype=torch.int32),
        "input_states_1": state,
        "input_states_2": state,
    }
    outputs = ["outputs", "prednet_lengths", "output_states_1", "output_states_2"]
    axes = {"encoder_outputs": {2: "steps"}, "outputs": {1: "steps"}}
    onnx_files.trace(PredictorAndJoint(model.predictor, model.joint), path, inputs, outputs, axes)
