"""Hugging Face's CTC models: wav2vec2, HuBERT, WavLM, MMS and their relatives, and Parakeet-CTC.

Knows no trainer, no split and no WER. Configurations name it as a ``class_path``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForCTC, ParakeetFeatureExtractor
from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES

from asr_lightning.adapters import saved
from asr_lightning.adapters.hf import mms
from asr_lightning.adapters.hf.labels import FrameRate, LabelCollator, TokenizerVocabulary
from asr_lightning.adapters.hf.parakeet_features import ParakeetFeatures
from asr_lightning.adapters.modes import evaluation_mode
from asr_lightning.adapters.shared import hub, pretrained
from asr_lightning.adapters.shared.attention_masks import no_host_reads
from asr_lightning.adapters.shared.ctc import ctc_loss, greedy_labels
from asr_lightning.adapters.shared.labels import UnknownCharacters, validate_unknown_characters
from asr_lightning.adapters.shared.lora import ATTENTION, LoRA, LoRANetwork, merge_adapter
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.protocols import ASRAdapter, Collator
from asr_lightning.types import AudioLimits, EvaluationOutput, LossOutput, SpeechBatch

FEED_FORWARD = ("intermediate_dense", "output_dense")
FRONTENDS = ("feature_extractor", "subsampling", "subsampler")
MASK_EMBEDDING = "masked_spec_embed"
MASK_SECONDS = 0.25
"""Shortest clip that wav2vec2's masks of ten frames of 20 ms fit into."""


@dataclass(frozen=True)
class CTCOptions:
    """Options that a saved model remembers. ``HFCTCAdapter`` explains them."""

    language: str | None = None
    unknown_characters: UnknownCharacters = "refuse"
    max_seconds: float = 30.0

    def __post_init__(self) -> None:
        validate_unknown_characters(self.unknown_characters)


class HFCTCAdapter:
    """Every model that ``AutoModelForCTC`` knows; the blank is the pad token.

    Args:
        source: A hub id such as ``facebook/wav2vec2-base-960h``, a Hugging Face folder or one written by ``save``.
        language: ISO 639-3 code such as ``deu``; for MMS alone, whose languages have layers and letters of their own.
        unknown_characters: What to do about letters, digits and symbols that the vocabulary lacks: ``refuse`` the
            transcripts before training, or ``leave_out`` the characters.
        max_seconds: Length of the longest clip; longer ones are refused. None takes what the source was saved with,
            else 30.
        spec_augment: SpecAugment masks while training; None for no masks. wav2vec2 and its relatives mask with layers
            of their own: they blank out the same share of a clip and of the bins, in stretches of another length.
        lora: LoRA, which trains low-rank matrices in place of the weights if ``lora.rank`` is above 0.

    Raises:
        ValueError: The source cannot be loaded or has no CTC head, or an option does not fit it.
    """

    def __init__(
        self,
        source: str,
        language: str | None = None,
        unknown_characters: UnknownCharacters | None = None,
        max_seconds: float | None = None,
        spec_augment: SpecAugment | None = None,
        lora: LoRA = LoRA(),  # noqa: B008 - frozen
    ) -> None:
        self.options = saved.resolve_options(
            source, CTCOptions(), language=language, unknown_characters=unknown_characters, max_seconds=max_seconds
        )
        self.source = source
        self._load(source, self.options.language)
        self.spec_augment = spec_augment or SpecAugment()
        self._set_masks()
        self.vocabulary = TokenizerVocabulary(self.tokenizer)
        is_parakeet = isinstance(self.extractor, ParakeetFeatureExtractor)
        self._features = ParakeetFeatures(self.extractor) if is_parakeet else None
        self._lora = LoRANetwork(self.model, lora, self._lora_targets(lora))

    def _load(self, source: str, language: str | None) -> None:
        folder = pretrained.folder_of(source)
        config = pretrained.read_config(folder)
        pretrained.require_kind(folder, config, MODEL_FOR_CTC_MAPPING_NAMES)
        options = mms.loading_options(source, folder, config, language)
        with hub.quiet():
            self.extractor = pretrained.load_extractor(folder)
            self.tokenizer = pretrained.load_tokenizer(folder, **options.tokenizer)
            # Fine-tuned checkpoints such as facebook/wav2vec2-base-960h lack what only masks need.
            self.model = pretrained.load_network(AutoModelForCTC, folder, MASK_EMBEDDING, **options.network)
            merge_adapter(self.model, source)
        if self.tokenizer.pad_token_id != self.model.config.pad_token_id:
            raise hub.SourceError(
                f"{folder}: the tokenizer's pad token is {self.tokenizer.pad_token_id}, the network's blank "
                f"{self.model.config.pad_token_id}: copy both from one model"
            )

    def _set_masks(self) -> None:
        """Mask by our options alone, and skip no layers: the checkpoint's own settings are for training from scratch.

        Raises:
            ValueError: Masks are wanted, and the checkpoint has no embedding for masked frames.
        """
        config, masks = self.model.config, self.spec_augment
        pretrained.disable_layerdrop(self.model)
        self._masks_itself = hasattr(config, "mask_time_prob")
        if not self._masks_itself:
            return
        embeddings = [p for name, p in self.model.named_parameters() if name.endswith(MASK_EMBEDDING)]
        for embedding in embeddings:  # without time masks it is unused, and DDP would wait for its gradient
            embedding.requires_grad = masks.num_time_masks > 0
        config.apply_spec_augment = masks.active
        if masks.active:
            if not embeddings:
                raise ValueError(
                    f"{self.source} was made without masks: set --model.adapter.init_args.spec_augment null"
                )
            config.mask_time_prob = masks.num_time_masks * masks.time_fraction
            config.mask_feature_prob = masks.num_freq_masks * masks.freq_bins / config.hidden_size
            config.mask_feature_length = masks.freq_bins
            config.mask_feature_min_masks = 0  # WavLM reads it, and its configuration class of 5.23 lacks it

    def _lora_targets(self, lora: LoRA) -> Sequence[str]:
        """Choose the layers for LoRA, which has no effect on WavLM's attention: its layers are read but never called.

        Raises:
            ValueError: ``lora`` names WavLM's attention.
        """
        if self.model.config.model_type != "wavlm":
            return ATTENTION
        if any(target.endswith(ATTENTION) for target in lora.targets or ()):
            raise ValueError(
                "LoRA has no effect on WavLM's attention: choose --model.adapter.init_args.lora.targets from "
                + ", ".join(FEED_FORWARD)
            )
        return FEED_FORWARD

    @property
    def limits(self) -> AudioLimits:
        """Limits of the checkpoint. Group normalisation mixes all frames, so that padding changes the result."""
        masked = self._masks_itself and self.spec_augment.active
        return AudioLimits(
            sample_rate=self.extractor.sampling_rate,
            min_seconds=MASK_SECONDS if masked else AudioLimits.min_seconds,
            max_seconds=float(self.options.max_seconds),
            padding_invariant=self._uses_mask,
        )

    @property
    def _uses_mask(self) -> bool:
        """Whether the network takes an attention mask: those with group normalisation were trained without one."""
        return getattr(self.model.config, "feat_extract_norm", "layer") == "layer"

    @property
    def groups(self) -> Mapping[str, tuple[str, ...]]:
        """``frontend`` is the convolutions over the audio, and ``head`` is the layer that writes labels."""
        head = "lm_head" if hasattr(self.model, "lm_head") else "ctc_head"
        body, network = next((name, part) for name, part in self.model.named_children() if name != head)
        frontends = tuple(f"{body}.{name}" for name in FRONTENDS if hasattr(network, name))
        return ({"frontend": frontends} if frontends else {}) | {"encoder": (body,), "head": (head,)}

    def collator(self) -> Collator:
        """Make a collator, which holds the vocabulary."""
        rate = FrameRate.measured(self.extractor, self._output_lengths)
        return LabelCollator(self.extractor, self.vocabulary, self.options.unknown_characters, rate)

    def _output_lengths(self, lengths: Tensor) -> Tensor:
        """Return the number of frames that the model makes of inputs of ``lengths`` ``[B]``, by its own function."""
        model = self.model
        function = getattr(model, "_get_subsampling_output_length", None) or model._get_feat_extract_output_lengths
        return function(lengths).long()

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the mean over utterances of the CTC loss per label."""
        return self._loss(batch, *self._logits(batch))

    @torch.no_grad()
    def transcribe(self, batch: SpeechBatch) -> list[str]:
        """Decode greedily: the best label of each frame, with repeats merged and blanks dropped."""
        with self.evaluating():
            return self._texts(*self._logits(batch))

    @torch.no_grad()
    def evaluate(self, batch: SpeechBatch) -> EvaluationOutput:
        """Return loss and text from one pass of the network."""
        with self.evaluating():
            logits, frames = self._logits(batch)
            return EvaluationOutput(self._loss(batch, logits, frames), self._texts(logits, frames))

    def _loss(self, batch: SpeechBatch, logits: Tensor, frames: Tensor) -> LossOutput:
        return ctc_loss(logits, frames, batch, self.model.config.pad_token_id)

    def _texts(self, logits: Tensor, frames: Tensor) -> list[str]:
        labels = greedy_labels(logits, frames, self.model.config.pad_token_id)
        return [self.vocabulary.decode(row).strip() for row in labels]

    def _logits(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """Return logits ``[B, F', V]`` and the number of true frames ``[B]``, the latter on the CPU."""
        inputs = self.inputs(batch)
        if "input_features" in inputs and self.model.training and self.spec_augment.active and not self._masks_itself:
            features = inputs["input_features"].transpose(1, 2)
            inputs["input_features"] = self.spec_augment(features, batch.input_lengths).transpose(1, 2)
        if not self._uses_mask:
            del inputs["attention_mask"]
        with no_host_reads(batch.targets.device):
            return self.model(**inputs).logits, self._output_lengths(batch.input_lengths)

    def inputs(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """Return the network's keyword arguments, on the device of the batch."""
        return dict(batch.inputs) if self._features is None else self._features(**batch.inputs)

    def evaluating(self) -> AbstractContextManager[None]:
        """Put the network into eval mode inside the context, and restore the mode of every submodule after it."""
        return evaluation_mode(self.model)

    def native(self) -> ASRAdapter:
        """Return the adapter itself: these models read audio at its true length."""
        return self

    def save(self, directory: Path) -> None:
        """Write a plain Hugging Face folder: weights in float32, tokenizer, feature extractor."""
        merged = self._lora.merged()
        pretrained.write(directory, merged, self.tokenizer, self.extractor)
        mms.save_language(directory, merged, self.options.language)
        saved.describe(directory, self, asdict(self.options) | {"spec_augment": self.spec_augment})
