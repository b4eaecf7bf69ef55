"""NVIDIA NeMo: FastConformer, Conformer and Parakeet with a CTC head, a transducer (RNNT, TDT), or both.

A NeMo model is a LightningModule. Here it is a plain network: its training step, optimizer, loaders and ``transcribe``
are never used. Knows no trainer, no split and no WER. Configurations name it as a ``class_path``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from asr_lightning.adapters import saved
from asr_lightning.adapters.modes import evaluation_mode
from asr_lightning.adapters.nemo import heads, loading
from asr_lightning.adapters.nemo.collator import NeMoCollator
from asr_lightning.adapters.shared.labels import (
    BPEVocabulary,
    CharacterVocabulary,
    UnknownCharacters,
    Vocabulary,
    validate_unknown_characters,
)
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.protocols import ASRAdapter, Collator
from asr_lightning.training.devices import send
from asr_lightning.types import AudioLimits, EvaluationOutput, LossOutput, SpeechBatch

LINEAR_ADAPTER = "linear"
"""Name of the adapter modules inside the checkpoint."""

MAX_SECONDS = 30.0
"""Longest clip for checkpoints that do not say how long their training clips were."""


@dataclass(frozen=True)
class NeMoOptions:
    """Options that a saved model remembers. ``NeMoAdapter`` explains them."""

    decoder: Literal["rnnt", "ctc"] | None = None
    ctc_weight: float | None = None
    linear_adapter_dim: int = 0
    unknown_characters: UnknownCharacters = "refuse"
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        validate_unknown_characters(self.unknown_characters)
        if self.linear_adapter_dim < 0:
            raise ValueError(
                f"--model.adapter.init_args.linear_adapter_dim must not be negative, but is {self.linear_adapter_dim}"
            )


class NeMoAdapter:
    """NeMo's CTC, RNNT, TDT and hybrid recognisers.

    Args:
        source: A ``.nemo`` file, a folder written by ``save``, a hub id such as ``nvidia/parakeet-tdt-0.6b-v2``, or a
            name of NVIDIA's catalogue.
        decoder: Head of a hybrid that writes the text: ``rnnt`` (also TDT, and the default) or ``ctc``.
        ctc_weight: Weight of a hybrid's CTC loss, a share from 0 to 1; None takes the checkpoint's.
        linear_adapter_dim: Width of NeMo's linear adapter modules in the encoder, of which 32 is usual; 0 adds none.
            They are a group of their own, ``linear_adapter``, so that they can be trained alone.
        unknown_characters: What to do about letters, digits and symbols that the vocabulary lacks: ``refuse`` the
            transcripts before training, or ``leave_out`` the characters.
        max_seconds: Length of the longest clip; longer ones are refused. None takes the longest that the checkpoint was
            trained on.
        spec_augment: SpecAugment masks while training; None for no masks.

    Raises:
        ValueError: NeMo is not installed, the source cannot be loaded or is unsafe, or an option does not fit it.
    """

    def __init__(
        self,
        source: str,
        decoder: Literal["rnnt", "ctc"] | None = None,
        ctc_weight: float | None = None,
        linear_adapter_dim: int | None = None,
        unknown_characters: UnknownCharacters | None = None,
        max_seconds: float | None = None,
        spec_augment: SpecAugment | None = None,
    ) -> None:
        self.options = saved.resolve_options(
            source,
            NeMoOptions(),
            decoder=decoder,
            ctc_weight=ctc_weight,
            linear_adapter_dim=linear_adapter_dim,
            unknown_characters=unknown_characters,
            max_seconds=max_seconds,
        )
        self.spec_augment = spec_augment or SpecAugment()
        self._load(source, self.options.linear_adapter_dim)

    def _load(self, source: str, linear_adapter_dim: int) -> None:
        """Load the network, and choose the head and the masks."""
        self.model, self.source = loading.load_nemo(source, linear_adapter_dim)
        if linear_adapter_dim:
            _add_linear_adapter(self.model, linear_adapter_dim)
        if hasattr(self.model, "joint"):
            from asr_lightning.adapters.nemo.losses import make_portable  # needs the transformers of the extra

            make_portable(self.model.loss)
        self.head = heads.build_head(self.model, self.options.decoder, self.options.ctc_weight)
        self.model.spec_augmentation = _spec_augmentation(self.spec_augment)
        self._switch_cuda_graphs(False)  # NeMo builds decodings with graphs on

    @property
    def limits(self) -> AudioLimits:
        """Limits of the training clips: an encoder with full attention reads longer ones, but has never seen any."""
        config = self.model.cfg
        trained = (config.get("train_ds") or {}).get("max_duration")
        return AudioLimits(
            sample_rate=int(config.preprocessor.sample_rate),
            max_seconds=float(self.options.max_seconds or trained or MAX_SECONDS),
            # With masked convolutions and attention results are equal to the last bit. Other encoders let padding in.
            padding_invariant=config.encoder.get("self_attention_model") == "rel_pos",
        )

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """NeMo's ``decoder`` is the prediction network of a transducer, or the head of a CTC model."""
        model = self.model
        groups = {"frontend": ("preprocessor", "encoder.pre_encode"), "encoder": ("encoder",)}
        groups |= {"decoder": ("decoder",), "joint": ("joint",)} if hasattr(model, "joint") else {"head": ("decoder",)}
        if hasattr(model, "ctc_decoder"):
            groups["head"] = ("ctc_decoder",)
        adapters = tuple(name for name, _ in model.named_modules() if name.endswith("adapter_layer"))
        return groups | ({"linear_adapter": adapters} if adapters else {})

    def collator(self) -> Collator:
        """Make a collator, which holds the vocabulary."""
        joint = getattr(self.model, "joint", None)
        frame_seconds = self.model.cfg.preprocessor.window_stride * self.model.encoder.subsampling_factor
        return NeMoCollator(
            vocabulary=self._vocabulary(),
            unknown_characters=self.options.unknown_characters,
            frames_per_second=1 / frame_seconds,
            needs_frames=joint is None or hasattr(self.model, "ctc_decoder"),
            joint_columns=0 if joint is None else joint.num_classes_with_blank,  # TDT durations included
        )

    def _vocabulary(self) -> Vocabulary:
        tokenizer = getattr(self.model, "tokenizer", None)
        if tokenizer is None:
            return CharacterVocabulary(self.model.cfg.labels)
        return BPEVocabulary(tokenizer.tokenizer.serialized_model_proto())

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the checkpoint's own loss with its own reduction; for a hybrid, the weighted sum of both losses."""
        return self._loss(batch, *self._encode(batch))

    @torch.no_grad()
    def transcribe(self, batch: SpeechBatch) -> list[str]:
        """Decode the whole batch greedily in one pass."""
        with evaluation_mode(self.model):
            return self._texts(*self._encode(batch))

    @torch.no_grad()
    def evaluate(self, batch: SpeechBatch) -> EvaluationOutput:
        """Return loss and text from one pass of the encoder."""
        with evaluation_mode(self.model):
            encoded, frames = self._encode(batch)
            return EvaluationOutput(self._loss(batch, encoded, frames), self._texts(encoded, frames))

    def _loss(self, batch: SpeechBatch, encoded: Tensor, frames: Tensor) -> LossOutput:
        targets = batch.targets.clamp(min=0)  # NeMo goes by the lengths and does not know -100
        return self.head.loss(encoded, frames, targets, send(batch.target_lengths, targets.device))

    def _texts(self, encoded: Tensor, frames: Tensor) -> list[str]:
        return [text.strip() for text in self.head.decode(encoded, frames)]

    def _encode(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """Return the encoder's output ``[B, D, F']`` and the number of its true frames ``[B]``.

        In training NeMo adds dither in place, so it gets a copy: the caller's batch must not change.
        """
        signal, length = batch.inputs["input_signal"].clone(), batch.inputs["input_signal_length"]
        features, length = self.model.preprocessor(input_signal=signal, length=length)
        if self.model.training and self.model.spec_augmentation is not None:
            features = self.model.spec_augmentation(input_spec=features, length=length)
        encoded, length, *_ = self.model.encoder(audio_signal=features, length=length)
        return encoded, length

    def evaluating(self) -> AbstractContextManager[None]:
        """Inside the context there are eval mode and, on a GPU, CUDA graphs, which hold memory that training needs."""
        return self._evaluating()

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        with evaluation_mode(self.model):
            self._switch_cuda_graphs(True)
            try:
                yield
            finally:
                self._switch_cuda_graphs(False)

    def _switch_cuda_graphs(self, on: bool) -> None:
        """Switch CUDA graphs on or off. Only a transducer's decoding has them.

        They are captured anew each time, since the precision may have changed.
        """
        decoding = self.head.decoding.decoding
        if hasattr(decoding, "maybe_enable_cuda_graphs"):
            decoding.disable_cuda_graphs()
            if on:
                decoding.maybe_enable_cuda_graphs()

    def native(self) -> ASRAdapter:
        """Return the adapter itself: NeMo reads audio at its true length."""
        return self

    def save(self, directory: Path) -> None:
        """Write ``model.nemo``, which NeMo's ``restore_from`` reads, with the original tokenizer and configuration."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        with loading.quiet():
            self.model.save_to(str(directory / loading.FILE_NAME))
        saved.describe(directory, self, asdict(self.options) | {"spec_augment": self.spec_augment})


def _spec_augmentation(masks: SpecAugment) -> Any:
    """Make NeMo's own layer for ``model.spec_augmentation``; None switches masks off."""
    if not masks.active:
        return None
    from nemo.collections.asr.modules import SpectrogramAugmentation

    return SpectrogramAugmentation(
        time_masks=masks.num_time_masks,
        time_width=masks.time_fraction,
        freq_masks=masks.num_freq_masks,
        freq_width=masks.freq_bins,
    )


def _add_linear_adapter(model: Any, dim: int) -> None:
    """Add linear adapter modules to the encoder, which start as the identity; a saved model keeps those it has."""
    if model.is_adapter_available():
        return
    from nemo.collections.common.parts.adapter_modules import LinearAdapterConfig

    with loading.quiet():
        model.add_adapter(f"encoder:{LINEAR_ADAPTER}", LinearAdapterConfig(model.cfg.encoder.d_model, dim))
        model.set_enabled_adapters(f"encoder:{LINEAR_ADAPTER}", enabled=True)
