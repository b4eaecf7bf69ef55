"""CTC models and transducers for the package onnx-asr: the files of ``onnx``, for models that it can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from asr_lightning.errors import ModelError
from asr_lightning.export.labels import onnx as onnx_labels
from asr_lightning.export.labels.models import load

problems = onnx_labels.problems


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write the files of ``variant`` into ``target``.

    Raises:
        ModelError: onnx-asr cannot read this kind of model.
    """
    model = load(source, variant)
    if model.settings.kind == "samples":
        raise ModelError(
            f"{source} reads samples, as wav2vec2 does, and onnx-asr reads models with features only: take --to onnx "
            "or --to sherpa-onnx"
        )
    onnx_labels.require_known(model, "onnx-asr")
    return onnx_labels.write(model, target)
