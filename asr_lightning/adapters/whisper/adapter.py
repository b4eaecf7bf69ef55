"""Whisper: log-mel features, an encoder at the true length of the audio, an attention decoder.

Knows no trainer, no split and no WER. Configurations name it as a ``class_path``.
"""

from __future__ import annotations

import copy
import json
import math
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
from asr_lightning.adapters.shared.lora import LoRA, LoRANetwork
from asr_lightning.adapters.shared.masks import SpecAugment
from asr_lightning.adapters.shared.seq2seq import CAP_TOKENS_PER_SECOND, validate_smoothing
from asr_lightning.adapters.whisper import prompts
from asr_lightning.adapters.whisper.collator import WhisperCollator
from asr_lightning.adapters.whisper.encoder import encode
from asr_lightning.adapters.whisper.features import LogMel
from asr_lightning.adapters.whisper.loading import load_whisper
from asr_lightning.protocols import ASRAdapter, Collator
from asr_lightning.types import AudioLimits, EvaluationOutput, LossOutput, SpeechBatch

FRAMES_PER_SECOND = 100
TRAIN_MARGIN_SECONDS = 0.64
"""Longest margin in training. For short clips 3 s of margin would be half of the work, and a model that is trained with
less of it reads as well with more."""

SHAPE = ("model_type", "encoder_attention_heads", "decoder_attention_heads", "activation_function", "scale_embedding")
"""Settings that the weights do not show. Copies of one checkpoint differ in the rest of their configuration."""

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
            raise ValueError(f"--model.adapter.init_args.context has no {self.context!r}: choose true_length or window")
        if self.margin_seconds < 0 or self.max_tokens_per_second <= 0:
            raise ValueError(
                "--model.adapter.init_args.margin_seconds must not be negative, and "
                "--model.adapter.init_args.max_tokens_per_second must be above 0"
            )


class WhisperAdapter:
    """OpenAI's Whisper, every size, multilingual and English-only.

    Args:
        source: A hub id, a Hugging Face folder, a faster-whisper (CTranslate2) folder or a folder written by ``save``.
        language: Language that is spoken, such as ``de`` or ``german``. A multilingual model needs one unless it was
            saved with one.
        task: ``transcribe`` (default) or ``translate``.
        context: ``true_length`` encodes the longest clip of a batch and a margin, about a tenth of the work of
            ``window``, the 30 s that Whisper was trained on. An untrained Whisper repeats itself at true length. None
            takes what the source was saved with, else true_length; the same holds for the next two options.
        margin_seconds: Silence after the longest clip at true length; the default is 0.64 s, and training never takes
            more than that. A longer margin keeps a step back towards the untouched model from repeating itself: that
            model itself does so with 0.64 s, has 11 % of the words wrong with 4 s and 2 % with 8 s, and 2.5 % with the
            window.
        max_tokens_per_second: Cap on the text of a clip, which may have 8 tokens more; the default is 7. That fits
            scripts that Whisper knows as words; take 30 for those it spells in bytes, such as Hindi or Thai.
        spec_augment: SpecAugment masks while training; None for no masks.
        label_smoothing: Share of each token's weight that is spread over all tokens while training.
        lora: LoRA, which trains low-rank matrices in place of the weights if ``lora.rank`` is above 0.

    Raises:
        ValueError: The source cannot be loaded, or the language or the task does not fit it.
    """

    groups: Mapping[str, tuple[str, ...]] = {"encoder": ("model.encoder",), "decoder": ("model.decoder", "proj_out")}
    """``proj_out`` is the decoder's embedding under another name, so they are in one group and freeze together."""

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
        self.label_smoothing = validate_smoothing(label_smoothing)
        self.model, self.processor, self.source = load_whisper(source)
        self.spec_augment = spec_augment or SpecAugment()
        self._set_prompt(language, task)
        self._log_mel = self._new_log_mel()
        self._train_log_mel = self._new_log_mel(TRAIN_MARGIN_SECONDS)
        self._lora = LoRANetwork(self.model, lora)

    def _new_log_mel(self, max_margin: float = math.inf) -> LogMel:
        margin = min(self.options.margin_seconds, max_margin) if self.options.context == "true_length" else None
        return LogMel(self.processor.feature_extractor, margin)

    def _set_prompt(self, language: str | None, task: str | None) -> None:
        """Resolve language and task once, also for ``generate`` and for every saved folder."""
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
        """30 s and the decoder's positions. Whisper has no padding mask: padding changes nothing only in the window."""
        extractor = self.processor.feature_extractor
        return AudioLimits(
            sample_rate=extractor.sampling_rate,
            max_seconds=float(extractor.chunk_length),
            max_target_tokens=self.model.config.max_target_positions,
            padding_invariant=self.options.context == "window",
        )

    def collator(self) -> Collator:
        """Make a collator, which holds tokenizer and prompt."""
        return WhisperCollator(
            tokenizer=self.processor.tokenizer,
            prompt=self.rules.prompt,
            eos=self.rules.eos,
            language=self.language,
            limits=self.limits,
        )

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the mean cross entropy per token."""
        return self._decoder.loss(self._forced(batch), batch)

    @torch.no_grad()
    def transcribe(self, batch: SpeechBatch) -> list[str]:
        """Decode greedily and without timestamps, each clip up to a cap by its own duration."""
        with self.evaluating():
            return self._decoder.texts(self._forced(batch), batch)

    @torch.no_grad()
    def evaluate(self, batch: SpeechBatch) -> EvaluationOutput:
        """Return loss and text from one pass; the text of ``batch`` is the draft that decoding starts from."""
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
        """Run our encoder in place of upstream's, which refuses short input and masks the caller's tensor in place."""
        return self._decoder.forced(encode(self.model.model.encoder, self._augmented(batch)), batch)

    def features(self, batch: SpeechBatch) -> Tensor:
        """Return log-mel features, float32 ``[B, M, F]``, on the device of the batch."""
        log_mel = self._train_log_mel if self.model.training else self._log_mel
        return log_mel(batch.inputs["waveforms"])

    def evaluating(self) -> AbstractContextManager[None]:
        """Put the network into eval mode inside the context, and restore the mode of every submodule after it."""
        return evaluation_mode(self.model)

    def native(self) -> ASRAdapter:
        """Return an adapter over the same network and processor that feeds it the 30 s window."""
        native = copy.copy(self)
        native.options = replace(self.options, context="window")
        native._log_mel = native._train_log_mel = native._new_log_mel()
        return native

    def save(self, directory: Path) -> None:
        """Write a plain Hugging Face folder: weights in float32, tokenizer, feature extractor, generation config."""
        processor = self.processor
        # transformers 5 writes processor_config.json alone; faster-whisper and older releases read the other file.
        pretrained.write(directory, self._lora.merged(), processor, processor.feature_extractor)
        _write_vocabulary(processor.tokenizer, Path(directory))
        training = {"spec_augment": self.spec_augment, "label_smoothing": self.label_smoothing}
        saved.describe(directory, self, self._reading_options() | training)

    def text_options(self) -> Mapping[str, object]:
        """Return everything that decides the text beside weights and input; optional (``known_texts.py``)."""
        parts = self.model.config, self.processor.tokenizer, self.processor.feature_extractor
        return self._reading_options() | asdict(self.rules) | pretrained.text_options(*parts, SHAPE)

    def _reading_options(self) -> dict[str, object]:
        """The arguments of the constructor that decide how audio is read."""
        return {"language": self.language, "task": self.task, **asdict(self.options)}

    def _augmented(self, batch: SpeechBatch) -> Tensor:
        features = self.features(batch)
        if not (self.model.training and self.spec_augment.active):
            return features
        num_frames = (batch.seconds * FRAMES_PER_SECOND).ceil().long().clamp(max=features.shape[-1])
        return self.spec_augment(features, num_frames)


def _write_vocabulary(tokenizer: Any, directory: Path) -> None:
    """Write ``vocab.json`` and ``added_tokens.json``, which whisper.cpp's converter and older tools read."""
    tokenizer.save_vocabulary(str(directory))
    own = json.loads((directory / "vocab.json").read_text(encoding="utf-8"))
    added = {token: number for token, number in tokenizer.get_added_vocab().items() if token not in own}
    content = json.dumps(added, indent=2, ensure_ascii=False)
    (directory / "added_tokens.json").write_text(content + "\n", encoding="utf-8")
