"""wav2vec2 for CTranslate2, which reads its larger shapes: those with layer normalisation everywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ctranslate2.converters.transformers import Wav2Vec2Loader

from asr_lightning.errors import ModelError
from asr_lightning.export.graphs import files as onnx_files
from asr_lightning.export.graphs import probes
from asr_lightning.export.labels import checks as label_checks
from asr_lightning.export.labels.graphs import SampleCTC
from asr_lightning.export.labels.models import LabelModel, load
from asr_lightning.runtime.formats import FLOAT
from asr_lightning.runtime.labels.ctranslate2 import FILES, TOKENS, log_probs, open_model
from asr_lightning.runtime.labels.texts import write_tokens

STORED = {"int8": "int8", "float16": "float16", FLOAT: "float32"}
"""Type of the weights in the file, for each variant."""

SHAPE = {
    "model_type": "wav2vec2", "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True,
    "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16, "adapter_attn_dim": None, "add_adapter": False,
    "feat_extract_activation": "gelu", "hidden_act": "gelu",
    "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2),
}  # fmt: skip
"""What CTranslate2 takes for granted. Source: its ``src/layers/wav2vec2.cc``."""


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write the files of ``variant`` into ``target``.

    Raises:
        ModelError: CTranslate2 cannot read this kind of model.
    """
    model = load(source, variant)
    graph = _graph_of(source, model)
    with onnx_files.quiet():
        spec = Wav2Vec2Loader().get_model_spec(graph.network)
    spec.register_vocabulary(list(model.tokens))
    spec.validate()
    spec.optimize(quantization=STORED[variant])
    spec.save(str(target))
    write_tokens(target / TOKENS, model.tokens)
    return model.settings.as_json()


def _graph_of(source: Path, model: LabelModel) -> SampleCTC:
    """The graph of ``model``, which has a shape that CTranslate2 knows.

    Raises:
        ModelError: It has another shape.
    """
    graph = model.encoder
    if model.settings.kind != "samples" or not isinstance(graph, SampleCTC):
        raise ModelError(f"{source} is no wav2vec2, and CTranslate2 reads no other CTC model: take --to onnx")
    config = graph.network.config
    if other := [name for name, value in SHAPE.items() if _plain(getattr(config, name, None)) != value]:
        raise ModelError(
            f"{source} has {other[0]} {getattr(config, other[0], None)!r}, and CTranslate2 reads wav2vec2 with "
            f"{SHAPE[other[0]]!r} only: take --to onnx"
        )
    return graph


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the files in ``target``."""
    model = load(source, str(settings.get("variant", "")))
    if missing := label_checks.missing(target, FILES):
        return missing
    samples = label_checks.heard(model)
    with torch.no_grad():
        expected = model.encoder.eval()(torch.from_numpy(samples)[None])[0].numpy()

    def compute() -> np.ndarray:
        own = model.settings
        return log_probs(open_model(target, own, 1), samples, own.blank, own.special)

    is_rounded = model.settings.variant != FLOAT
    return [
        *label_checks.token_problems(model, target / TOKENS),
        *probes.compare(
            target / FILES[0], label_checks.finite(expected), lambda: label_checks.finite(compute()), is_rounded
        ),
    ]
