"""Parakeet's transducers, RNNT and TDT, in transformers: the networks of NVIDIA NeMo without NeMo.

Knows no trainer, no split and no WER. Configurations name it as a ``class_path``.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import ParakeetForRNNT, ParakeetForTDT
from transformers.loss.loss_rnnt import rnnt_loss
from transformers.loss.loss_tdt import tdt_loss

from asr_lightning.adapters import saved
from asr_lightning.adapters.hf.labels import FrameRate, LabelCollator, TokenizerVocabulary
from asr_lightning.adapters.hf.parakeet_features import ParakeetFeatures
from asr_lightning.adapters.modes import evaluation_mode, loss_and_texts
from asr_lightning.adapters.shared import hub, pretrained
from asr_lightning.adapters.shared.attention_masks import no_host_reads
from asr_lightning.adapters.shared.labels import UnknownCharacters, validate_unknown_characters
from asr_lightning.adapters.shared.lora import LoRA, LoRANetwork, merge_adapter
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.protocols import ASRAdapter, Collator
from asr_lightning.training.devices import in_float32, send
from asr_lightning.types import AudioLimits, EvaluationOutput, LossOutput, SpeechBatch

FAMILIES = {"parakeet_rnnt": ParakeetForRNNT, "parakeet_tdt": ParakeetForTDT}


@dataclass(frozen=True)
class TransducerOptions:
    """Options that a saved model remembers. ``HFTransducerAdapter`` explains them."""

    unknown_characters: UnknownCharacters = "refuse"
    max_seconds: float = 30.0

    def __post_init__(self) -> None:
        validate_unknown_characters(self.unknown_characters)


class HFTransducerAdapter:
    """``ParakeetForRNNT`` and ``ParakeetForTDT``.

    Args:
        source: A hub id such as ``nvidia/parakeet-tdt-0.6b-v3``, a Hugging Face folder or one written by ``save``.
        unknown_characters: What to do about letters, digits and symbols that the vocabulary lacks: ``refuse`` the
            transcripts before training, or ``leave_out`` the characters.
        max_seconds: Length of the longest clip; longer ones are refused. None takes what the source was saved with,
            else 30.
        spec_augment: SpecAugment masks while training; None for no masks.
        lora: LoRA, which trains low-rank matrices in place of the encoder's weights if ``lora.rank`` is above 0.

    Raises:
        ValueError: The source cannot be loaded or is no such transducer, or an option does not fit it.
    """

    groups: Mapping[str, tuple[str, ...]] = {
        "frontend": ("encoder.subsampling",),
        "encoder": ("encoder",),
        "decoder": ("decoder",),
        "joint": ("encoder_projector", "joint"),
    }
    """NeMo's division: the encoder's projection belongs to the joint, and the decoder's projection to the decoder."""

    def __init__(
        self,
        source: str,
        unknown_characters: UnknownCharacters | None = None,
        max_seconds: float | None = None,
        spec_augment: SpecAugment | None = None,
        lora: LoRA = LoRA(),  # noqa: B008 - frozen
    ) -> None:
        self.options = saved.resolve_options(
            source, TransducerOptions(), unknown_characters=unknown_characters, max_seconds=max_seconds
        )
        self.source = source
        folder = pretrained.folder_of(source)
        kind = pretrained.require_kind(folder, pretrained.read_config(folder), FAMILIES)
        with hub.quiet():
            self.model = pretrained.load_network(FAMILIES[kind], folder)
            merge_adapter(self.model, source)
            self.processor = pretrained.load_processor(folder)
        self.extractor = self.processor.feature_extractor
        self._features = ParakeetFeatures(self.extractor)
        self.vocabulary = TokenizerVocabulary(self.processor.tokenizer)
        self.spec_augment = spec_augment or SpecAugment()
        self._configure()
        self._lora = LoRANetwork(self.model, lora)

    def _configure(self) -> None:
        """Skip no layers, and set the tokens that ``generate`` needs.

        Raises:
            ValueError: The durations of a TDT model lack 0: then no path through the lattice reaches some of its
                places, and their gradient is NaN.
        """
        config, generation = self.model.config, self.model.generation_config
        pretrained.disable_layerdrop(self.model)
        generation.decoder_start_token_id = config.blank_token_id
        generation.pad_token_id = config.pad_token_id
        self.durations = list(getattr(config, "durations", ()))
        # ``generate`` takes the best of all columns, and the last columns of a TDT model are durations.
        generation.suppress_tokens = [config.vocab_size + n for n in range(len(self.durations))] or None
        if self.durations and 0 not in self.durations:
            raise ValueError(f"a TDT model needs the duration 0, {self.source} has {self.durations}: choose another")

    @property
    def limits(self) -> AudioLimits:
        """Limits of the checkpoint. Every layer is masked, so that padding changes nothing."""
        return AudioLimits(sample_rate=self.extractor.sampling_rate, max_seconds=float(self.options.max_seconds))

    def collator(self) -> Collator:
        """Make a collator, which holds the vocabulary."""
        rate = FrameRate.measured(self.extractor, self._output_lengths)
        columns = self.model.joint.head.out_features
        return LabelCollator(self.extractor, self.vocabulary, self.options.unknown_characters, rate, columns)

    def _output_lengths(self, lengths: Tensor) -> Tensor:
        frames: Tensor = self.model._get_subsampling_output_length(lengths).long()
        return frames

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return transformers' own loss with its own reduction, but for the lengths, which the batch gives.

        transformers counts every label that is neither blank nor pad, and so counts -100. TDT is averaged over
        utterances, each per label; RNNT over all labels.
        """
        blank = self.model.config.blank_token_id
        labels = batch.targets.clamp(min=0)  # -100 is padding, which the lengths leave out
        start = labels.new_full((len(labels), 1), blank)
        with no_host_reads(labels.device):
            logits = self.model(**self._augmented(batch), decoder_input_ids=torch.cat([start, labels], 1)).logits
        frames = self._output_lengths(batch.input_lengths)
        logits = logits[:, : int(frames.max())]
        lengths = send(frames, logits.device), send(batch.target_lengths, logits.device)
        with in_float32(logits.device):
            if not self.durations:
                loss = rnnt_loss(logits, labels, *lengths, blank, reduction="mean_volume")
                return LossOutput(loss, int(batch.target_lengths.sum()))
            tokens, durations = logits.split([self.model.config.vocab_size, len(self.durations)], dim=-1)
            loss = tdt_loss(tokens, durations, labels, *lengths, blank, self.durations)
        return LossOutput(loss, len(batch))

    @torch.no_grad()
    def transcribe(self, batch: SpeechBatch) -> list[str]:
        """Decode greedily by transformers' own ``generate``, each clip up to its own end.

        ``generate`` decodes every clip up to the end of the longest one; what it writes after a clip's end is dropped.
        """
        lengths = self._output_lengths(batch.input_lengths)
        max_tokens = int(lengths.max()) * self.model.max_symbols_per_step  # TDT may stay at one frame for ever
        inputs = self.inputs(batch)
        with self.evaluating(), hub.quiet():
            # Without synced_gpus: in an evaluation every process holds the whole network, also with FSDP.
            output = self.model.generate(**inputs, max_new_tokens=max_tokens, synced_gpus=False)
        frames = output.durations.cumsum(-1) - output.durations
        is_inside = frames < send(lengths, frames.device)[:, None]
        is_text = is_inside & (output.sequences != self.model.config.blank_token_id)
        rows = zip(output.sequences.cpu(), is_text.cpu(), strict=True)
        return [self.vocabulary.decode(row[mask].tolist()).strip() for row, mask in rows]

    def evaluate(self, batch: SpeechBatch) -> EvaluationOutput:
        """Return loss and text, which share no work."""
        return loss_and_texts(self, batch)

    def evaluating(self) -> AbstractContextManager[None]:
        """Put the network into eval mode inside the context, and restore the mode of every submodule after it."""
        return evaluation_mode(self.model)

    def native(self) -> ASRAdapter:
        """Return the adapter itself: Parakeet reads audio at its true length."""
        return self

    def save(self, directory: Path) -> None:
        """Write a plain Hugging Face folder: weights in float32, tokenizer, feature extractor, processor."""
        pretrained.write(directory, self._lora.merged(), self.processor)
        saved.describe(directory, self, asdict(self.options) | {"spec_augment": self.spec_augment})

    def inputs(self, batch: SpeechBatch) -> dict[str, Tensor]:
        """Return ``input_features`` ``[B, F, M]`` and ``attention_mask`` ``[B, F]``, on the device of the batch."""
        return self._features(**batch.inputs)

    def _augmented(self, batch: SpeechBatch) -> dict[str, Tensor]:
        inputs = self.inputs(batch)
        if self.model.training and self.spec_augment.active:
            features = inputs["input_features"].transpose(1, 2)
            inputs["input_features"] = self.spec_augment(features, batch.input_lengths).transpose(1, 2)
        return inputs
