"""Whisper: log-mel features, an encoder at the true length of the audio, an attention decoder.

Must never know a trainer, a split or a WER. Named as ``class_path`` in a configuration.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from asr_lightning.adapters import saved
from asr_lightning.adapters.modes import evaluation_mode
from asr_lightning.adapters.shared import pretrained
from asr_lightning.adapters.shared.attention_decoder import AttentionDecoder
from asr_lightning.adapters.shared.greedy import GreedyRules, TeacherForced
from asr_lightning.adapters.shared.lora import LoRA, Network
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.adapters.shared.seq2seq import CAP_TOKENS_PER_SECOND, check_smoothing
from asr_lightning.adapters.whisper import prompts
from asr_lightning.adapters.whisper.collator import WhisperCollator
from asr_lightning.adapters.whisper.encoder import encode
from asr_lightning.adapters.whisper.features import LogMel
from asr_lightning.adapters.whisper.loading import load_whisper
from asr_lightning.protocols import ASRAdapter, Collator
from asr_lightning.types import AudioLimits, EvaluationOutput, LossOutput, SpeechBatch

FRAMES_PER_SECOND = 100
TRAIN_MARGIN_SECONDS = 0.64
"""Of short clips, 3 s of margin would be half of the work; trained with less of it, a model reads as well with more."""

SHAPE = ("model_type", "encoder_attention_heads", "decoder_attention_heads", "activation_function", "scale_embedding")
"""What the weights do not show. Copies of one checkpoint differ in the rest of their configuration."""

Context = Literal["true_length", "window"]


@dataclass(frozen=True)
class WhisperOptions:
    """How a model reads audio; a saved model is read as it was saved. ``WhisperAdapter`` explains the options."""

    context: Context = "true_length"
    margin_seconds: float = 0.64
    """32 encoder positions. Source: FUTO's whisper-acft; the WER on Earnings22 went from 318 to 19 with 64."""
    max_tokens_per_second: float = CAP_TOKENS_PER_SECOND

    def __post_init__(self) -> None:
        if self.context not in get_args(Context):
            raise ValueError(f"unknown context {self.context!r}: choose true_length or window")
        if self.margin_seconds < 0 or self.max_tokens_per_second <= 0:
            raise ValueError("margin_seconds must not be negative and max_tokens_per_second must be above 0")


class WhisperAdapter:
    """OpenAI's Whisper, every size, multilingual and English-only.

    Args:
        source: A hub id, a Hugging Face folder, a faster-whisper (CTranslate2) folder or a folder written by ``save``.
        language: Such as ``de`` or ``german``. A multilingual model needs one unless it was saved with one.
        task: ``transcribe`` (default) or ``translate``.
        context: ``true_length`` encodes the longest clip of a batch and a margin, about a tenth of the work of
            ``window``, the 30 s that Whisper was trained on. An untrained Whisper loops at true length. None takes
            what the source was saved with, else true_length; so do the next two.
        margin_seconds: Silence after the longest clip at true length, 0.64 s if nothing is known; in training never
            more than that. With more of it a step back towards the untouched model does not loop: that model itself
            loops with 0.64 s, writes 11 % of the words wrong with 4 s and 2 % with 8 s, where the window gives 2.5 %.
        max_tokens_per_second: Cap on the text of a clip, beside a constant of 8 tokens; 7 if nothing is known. That
            fits scripts that Whisper knows as words; take 30 for those it spells in bytes, such as Hindi or Thai.
        spec_augment: Masks over the features while training; None for no masks.
        label_smoothing: While training, the share of each token's weight that is spread over all tokens.
        lora: Train low-rank matrices in place of the weights, by ``lora.rank``.

    Raises:
        ValueError: The source cannot be loaded, or the language or the task does not fit it.
    """

    groups: Mapping[str, tuple[str, ...]] = {"encoder": ("model.encoder",), "decoder": ("model.decoder", "proj_out")}
    """``proj_out`` is the decoder's embedding under another name: they freeze together (pitfall T11)."""

    def __init__(
        self,
        source: str,
        language: str | None = None,
        task: str | None = None,
        context: Context | None = None,
        margin_seconds: float | None = None,
        max_tokens_per_second: float | None = None,
        spec_augment: SpecAugment | None = None,
        label_smoothing: float = 0.0,
        lora: LoRA = LoRA(),  # noqa: B008 - frozen
    ) -> None:
        self.options = saved.resolve_options(
            source,
            WhisperOptions(),
            context=context,
            margin_seconds=margin_seconds,
            max_tokens_per_second=max_tokens_per_second,
        )
        self.label_smoothing = check_smoothing(label_smoothing)
        self.model, self.processor, self.source = load_whisper(source)
        self.spec_augment = spec_augment or SpecAugment()
        self._set_prompt(language, task)
        self._log_mel = self._new_log_mel()
        self._train_log_mel = self._new_log_mel(TRAIN_MARGIN_SECONDS)
        self._network = Network(self.model, lora)

    def _new_log_mel(self, most: float = float("inf")) -> LogMel:
        margin = min(self.options.margin_seconds, most) if self.options.context == "true_length" else None
        return LogMel(self.processor.feature_extractor, margin)

    def _set_prompt(self, language: str | None, task: str | None) -> None:
        """Resolve language and task once, and let ``generate`` and every saved folder know them."""
        config: Any = self.model.generation_config
        self.language = prompts.language_code(language, config)
        self.task = prompts.task_name(task, config)
        if config.is_multilingual:
            config.language, config.task = self.language, self.task
        self.rules = GreedyRules(
            prompt=prompts.prompt_ids(config, self.language, self.task),
            eos=config.eos_token_id,
            suppress=tuple(config.suppress_tokens or ()),
            begin_suppress=tuple(config.begin_suppress_tokens or ()),
        )

    @property
    def limits(self) -> AudioLimits:
        """30 s and the decoder's positions. Whisper has no padding mask, so only the fixed window hides padding."""
        extractor = self.processor.feature_extractor
        return AudioLimits(
            sample_rate=extractor.sampling_rate,
            max_seconds=float(extractor.chunk_length),
            max_target_tokens=self.model.config.max_target_positions,
            padding_invariant=self.options.context == "window",
        )

    def collator(self) -> Collator:
        """The collator for this adapter's context."""
        return WhisperCollator(
            tokenizer=self.processor.tokenizer,
            prompt=self.rules.prompt,
            eos=self.rules.eos,
            language=self.language,
            limits=self.limits,
        )

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Cross entropy per token."""
        return self._decoder.loss(self._forced(batch), batch)

    @torch.no_grad()
    def transcribe(self, batch: SpeechBatch) -> list[str]:
        """Greedy text without timestamps, each clip capped by its own duration."""
        with self.evaluating():
            return self._decoder.texts(self._forced(batch), batch)

    @torch.no_grad()
    def evaluate(self, batch: SpeechBatch) -> EvaluationOutput:
        """Both from one pass; the text is decoded from that of ``batch`` as a draft."""
        with self.evaluating():
            return self._decoder.evaluate(self._forced(batch), batch)

    @property
    def _decoder(self) -> AttentionDecoder:
        return AttentionDecoder(
            self.model,
            self.processor.tokenizer,
            self.rules,
            self.options.max_tokens_per_second,
            self.model.config.max_target_positions,
            self.label_smoothing,
        )

    def _forced(self, batch: SpeechBatch) -> TeacherForced:
        """Our encoder in place of upstream's, which checks the length and masks the caller's tensor in place."""
        return self._decoder.forced(encode(self.model.model.encoder, self._augmented(batch)), batch)

    def features(self, batch: SpeechBatch) -> Tensor:
        """Log-mel float32 ``[B, M, F]``, on the device of the batch."""
        log_mel = self._train_log_mel if self.model.training else self._log_mel
        return log_mel(batch.inputs["waveforms"])

    def evaluating(self) -> AbstractContextManager[None]:
        """Eval mode inside; every submodule's own mode after."""
        return evaluation_mode(self.model)

    def native(self) -> ASRAdapter:
        """The same network and processor, fed the 30 s window."""
        other = copy.copy(self)
        other.options = replace(self.options, context="window")
        other._log_mel = other._train_log_mel = other._new_log_mel()
        return other

    def save(self, directory: Path) -> None:
        """Write a plain Hugging Face folder: weights in float32, tokenizer, feature extractor, generation config."""
        processor = self.processor
        # transformers 5 writes processor_config.json alone; faster-whisper and older releases read the other file.
        pretrained.write(directory, self._network.plain(), processor, processor.feature_extractor)
        processor.tokenizer.save_vocabulary(str(directory))  # vocab.json: whisper.cpp's converter reads it
        recipe = {"spec_augment": self.spec_augment, "label_smoothing": self.label_smoothing}
        saved.describe(directory, self, self._reading() | recipe)

    def text_options(self) -> Mapping[str, object]:
        """Return everything that decides the text beside weights and input; optional (``known_texts.py``)."""
        parts = self.model.config, self.processor.tokenizer, self.processor.feature_extractor
        return self._reading() | asdict(self.rules) | pretrained.text_options(*parts, SHAPE)

    def _reading(self) -> dict[str, object]:
        """The options, as arguments of the constructor, that decide how audio is read."""
        return {"language": self.language, "task": self.task, **asdict(self.options)}

    def _augmented(self, batch: SpeechBatch) -> Tensor:
        features = self.features(batch)
        if not (self.model.training and self.spec_augment.active):
            return features
        num_frames = (batch.seconds * FRAMES_PER_SECOND).ceil().long().clamp(max=features.shape[-1])
        return self.spec_augment(features, num_frames)
