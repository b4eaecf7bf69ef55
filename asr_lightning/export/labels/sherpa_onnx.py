"""CTC models and transducers for sherpa-onnx: graphs with metadata, and ``tokens.txt``.

Models with features have NeMo's layout. Models over samples have the layout of Meta's Omnilingual ASR, which is a
wav2vec2 with CTC as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from asr_lightning.errors import ModelError
from asr_lightning.export.graphs import files as onnx_files
from asr_lightning.export.labels import checks as label_checks
from asr_lightning.export.labels.models import LabelModel, load, state_of, write_encoder
from asr_lightning.export.labels.onnx import require_known
from asr_lightning.runtime.formats import FLOAT
from asr_lightning.runtime.labels.texts import write_tokens
from asr_lightning.runtime.sherpa_onnx import DECODER, ENCODER, JOINER, MODEL, TOKENS


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write the files of ``variant`` into ``target``.

    Raises:
        ModelError: sherpa-onnx makes other features, or normalizes otherwise, than the model.
    """
    model = load(source, variant)
    settings = model.settings
    if settings.kind == "samples" and not settings.is_normalized:
        raise ModelError(f"{source} takes samples as they are, and sherpa-onnx normalizes them: take --to onnx")
    if settings.kind != "samples":
        require_known(model, "sherpa-onnx")
    if settings.kind == "transducer" and settings.blank != settings.labels - 1:
        raise ModelError(f"{source} has a blank that is not the last label, as sherpa-onnx needs it: take --to onnx")
    graphs = [ENCODER, DECODER, JOINER] if settings.kind == "transducer" else [MODEL]
    write_encoder(model, target / graphs[0], metadata_of(model))
    if settings.kind == "transducer":
        _write_predictor(model, target)
    if variant != FLOAT:
        for name in graphs:
            onnx_files.quantize(target / name)
    write_tokens(target / TOKENS, model.tokens)
    return settings.as_json()


def metadata_of(model: LabelModel) -> dict[str, object]:
    """Return what sherpa-onnx reads from the graph.

    Its ``vocab_size`` leaves out the blank, as NeMo's does. A transducer with ``tdt`` in its ``url`` is a TDT to it.
    """
    settings = model.settings
    own: dict[str, object] = {}
    if settings.features is not None:
        own = {
            "vocab_size": settings.labels - 1,
            "normalize_type": "per_feature",
            "subsampling_factor": settings.subsampling,
            "feat_dim": settings.features.mels,
            "model_type": "EncDecCTCModelBPE" if settings.kind == "ctc" else "EncDecRNNTBPEModel",
            "version": 1,
            "model_author": "NeMo",
        }
    if settings.kind == "transducer":
        own |= {"pred_rnn_layers": settings.predictor_layers, "pred_hidden": settings.predictor_width}
        own["url"] = "a TDT model: tdt" if settings.durations else "an RNNT model"
    return own


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Return what is wrong with the files in ``target``."""
    model = load(source, str(settings.get("variant", "")))
    encoder = target / (ENCODER if model.settings.kind == "transducer" else MODEL)
    found = [
        *label_checks.token_problems(model, target / TOKENS),
        *label_checks.metadata_problems(encoder, metadata_of(model)),
        *label_checks.encoder_problems(model, encoder),
    ]
    if model.settings.kind == "transducer":
        found += label_checks.predictor_problems(model, target / DECODER, target / JOINER)
    return found


def _write_predictor(model: LabelModel, target: Path) -> None:
    assert model.predictor is not None and model.joint is not None
    state, one = state_of(model.settings), torch.ones(1, dtype=torch.int32)
    inputs = {"targets": one[None], "target_length": one, "input_states_1": state, "input_states_2": state}
    outputs = ["outputs", "prednet_lengths", "output_states_1", "output_states_2"]
    onnx_files.trace(model.predictor, target / DECODER, inputs, outputs, {})
    with torch.no_grad():
        frames = model.encoder.eval()(*model.example.values())[0][:1, :, :1]
        predicted = model.predictor.eval()(*inputs.values())[0]
    joined = {"encoder_outputs": torch.zeros_like(frames), "decoder_outputs": torch.zeros_like(predicted)}
    onnx_files.trace(model.joint, target / JOINER, joined, ["outputs"], {})
