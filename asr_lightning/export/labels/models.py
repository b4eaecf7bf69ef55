"""CTC models and transducers of every family in one form, from which the layouts of all runtimes are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import ParakeetFeatureExtractor

from asr_lightning.adapters import registry
from asr_lightning.adapters.hf_ctc import HFCTCAdapter
from asr_lightning.adapters.hf_transducer import HFTransducerAdapter
from asr_lightning.adapters.nemo import NeMoAdapter
from asr_lightning.errors import ModelError
from asr_lightning.export.graphs import files as onnx_files
from asr_lightning.export.labels import graphs as label_graphs
from asr_lightning.export.labels import nemo as nemo_labels
from asr_lightning.runtime.labels.features import FeatureSettings
from asr_lightning.runtime.labels.settings import LabelSettings
from asr_lightning.runtime.labels.texts import BLANK, SPACE


@dataclass(frozen=True)
class LabelModel:
    """A model that writes labels, as networks with the inputs and outputs of the graphs.

    Attributes:
        settings: How it reads audio.
        tokens: How each label is written.
        encoder: For CTC, samples or features to log-probabilities; else features to frames.
        predictor: A transducer's prediction network; None for CTC.
        joint: A transducer's joint network; None for CTC.
    """

    settings: LabelSettings
    tokens: tuple[str, ...]
    encoder: nn.Module
    predictor: nn.Module | None = None
    joint: nn.Module | None = None

    def inputs(self, sound: Tensor) -> dict[str, Tensor]:
        """Return the encoder's inputs, by their names in the graph, for a sound ``[T]`` or features ``[M, F]``."""
        if self.settings.kind == "samples":
            return {"samples": sound[None]}
        return {"audio_signal": sound[None], "length": torch.tensor([sound.shape[1]])}

    @property
    def example(self) -> dict[str, Tensor]:
        """Inputs of the encoder for tracing."""
        features = self.settings.features
        return self.inputs(torch.zeros(16_000) if features is None else torch.randn(features.mels, 120))


AXES: Mapping[str, Mapping[int, str]] = {
    "samples": {0: "clips", 1: "samples"},
    "audio_signal": {0: "clips", 2: "frames"},
    "length": {0: "clips"},
    "logprobs": {0: "clips", 1: "steps"},
    "outputs": {0: "clips", 2: "steps"},
    "encoded_lengths": {0: "clips"},
}


def write_encoder(model: LabelModel, path: Path, metadata: Mapping[str, object] | None = None) -> None:
    """Write the graph of the encoder of ``model`` to ``path``."""
    outputs = ["outputs", "encoded_lengths"] if model.settings.kind == "transducer" else ["logprobs"]
    names = [*model.example, *outputs]
    onnx_files.trace(model.encoder, path, model.example, outputs, {name: AXES[name] for name in names}, metadata)


def state_of(settings: LabelSettings) -> Tensor:
    """Return half of the state that a prediction network starts with."""
    return torch.zeros(settings.predictor_layers, 1, settings.predictor_width)


def load(source: Path, variant: str = "") -> LabelModel:
    """Load the model folder or ``.nemo`` file ``source``; LoRA is merged.

    Raises:
        ModelError: It is no CTC model and no transducer, hears in a way that no runtime knows, or cannot be loaded.
    """
    adapter = registry.build(str(source))
    if isinstance(adapter, HFCTCAdapter):
        model = _of_ctc(adapter)
    elif isinstance(adapter, HFTransducerAdapter):
        model = _of_transducer(adapter)
    elif isinstance(adapter, NeMoAdapter):
        model = LabelModel(*nemo_labels.parts_of(adapter))
    else:
        raise ModelError(f"{source} is no CTC model and no transducer: take a format that its family has")
    return replace(model, settings=replace(model.settings, variant=variant))


def _of_ctc(adapter: HFCTCAdapter) -> LabelModel:
    config, tokenizer, extractor = adapter.model.config, adapter.tokenizer, adapter.extractor
    adapter.model.set_attn_implementation("eager")
    blank, labels = config.pad_token_id, _num_labels(adapter)
    delimiter = getattr(tokenizer, "word_delimiter_token_id", None)
    special = tuple(sorted({n for n in tokenizer.all_special_ids if n < labels} - {blank, delimiter}))
    is_features = isinstance(extractor, ParakeetFeatureExtractor)
    collator: Any = adapter.collator()
    features = _features(extractor) if is_features else None
    settings = LabelSettings(
        kind="ctc" if is_features else "samples",
        sample_rate=adapter.limits.sample_rate,
        min_seconds=adapter.limits.min_seconds,
        max_seconds=adapter.limits.max_seconds,
        labels=labels,
        blank=blank,
        frame_seconds=1 / collator.rate.per_second,
        subsampling=config.encoder_config.subsampling_factor if is_features else 1,
        language=adapter.options.language,
        is_normalized=bool(getattr(extractor, "do_normalize", False)),
        features=features,
        special=special,
    )
    graph = (label_graphs.FeatureCTC if is_features else label_graphs.SampleCTC)(adapter.model, blank, special)
    return LabelModel(settings, _tokens(tokenizer, labels, blank), graph)


def _num_labels(adapter: HFCTCAdapter) -> int:
    head = getattr(adapter.model, "lm_head", None)
    return int(adapter.model.ctc_head.out_channels if head is None else head.out_features)


def _of_transducer(adapter: HFTransducerAdapter) -> LabelModel:
    model, config = adapter.model, adapter.model.config
    model.set_attn_implementation("eager")
    features = _features(adapter.extractor)
    subsampling = config.encoder_config.subsampling_factor
    settings = LabelSettings(
        kind="transducer",
        sample_rate=adapter.limits.sample_rate,
        min_seconds=adapter.limits.min_seconds,
        max_seconds=adapter.limits.max_seconds,
        labels=config.vocab_size,
        blank=config.blank_token_id,
        frame_seconds=features.hop * subsampling / features.sample_rate,
        subsampling=subsampling,
        features=features,
        durations=tuple(adapter.durations),
        special=tuple(sorted(set(adapter.processor.tokenizer.all_special_ids) - {config.blank_token_id})),
        max_symbols=model.max_symbols_per_step,
        predictor_layers=config.num_decoder_layers,
        predictor_width=config.decoder_hidden_size,
    )
    return LabelModel(
        settings,
        _tokens(adapter.processor.tokenizer, config.vocab_size, config.blank_token_id),
        label_graphs.ParakeetEncoder(model),
        label_graphs.ParakeetPredictor(model.decoder),
        label_graphs.ParakeetJoint(model.joint),
    )


def _features(extractor: Any) -> FeatureSettings:
    return FeatureSettings(
        sample_rate=extractor.sampling_rate,
        fft=extractor.n_fft,
        window=extractor.win_length,
        hop=extractor.hop_length,
        mels=extractor.feature_size,
        preemphasis=extractor.preemphasis,
    )


def _tokens(tokenizer: Any, labels: int, blank: int) -> tuple[str, ...]:
    """How each label is written: pieces as in SentencePiece, and wav2vec2's delimiter as a space."""
    pieces = {number: piece for piece, number in tokenizer.get_vocab().items()}
    delimiter = getattr(tokenizer, "word_delimiter_token", None)
    is_lower = getattr(tokenizer, "do_lower_case", False)
    written = (pieces.get(number, f"<unused{number}>") for number in range(labels))
    return tuple(
        BLANK if number == blank else SPACE if piece == delimiter else piece.lower() if is_lower else piece
        for number, piece in enumerate(written)
    )
