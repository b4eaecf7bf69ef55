"""Moonshine, both generations: raw audio at its true length, an attention decoder, made for small devices.

Knows no trainer, no split and no WER. Configurations name it as a ``class_path``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from asr_lightning.adapters import saved
from asr_lightning.adapters.modes import evaluation_mode
from asr_lightning.adapters.moonshine.loading import load_moonshine
from asr_lightning.adapters.shared import pretrained
from asr_lightning.adapters.shared.attention_decoder import AttentionDecoder
from asr_lightning.adapters.shared.attention_masks import no_host_reads
from asr_lightning.adapters.shared.greedy import GreedyRules, TeacherForced
from asr_lightning.adapters.shared.lora import LoRA, LoRANetwork
from asr_lightning.adapters.shared.seq2seq import CAP_TOKENS_PER_SECOND, refuse_long, shift_once, validate_smoothing
from asr_lightning.adapters.shared.style import characters_of, warn_of_style
from asr_lightning.protocols import ASRAdapter, Collator
from asr_lightning.types import AudioLimits, EvaluationOutput, LossOutput, SpeechBatch, Utterance

STREAMING = "moonshine_streaming"
PAD_TO_MULTIPLE = {"moonshine": 1, STREAMING: 80}
"""Number of samples that a batch must be a multiple of. The streaming front end splits audio into frames of 5 ms, and
fails on an incomplete one."""

MAX_SECONDS = 30.0
"""Length of the longest clips that Moonshine was trained on. Source: arXiv 2410.15608, section 3."""


@dataclass(frozen=True)
class MoonshineOptions:
    """Options that a saved model remembers. ``MoonshineAdapter`` explains them."""

    max_tokens_per_second: float = CAP_TOKENS_PER_SECOND
    max_seconds: float = MAX_SECONDS

    def __post_init__(self) -> None:
        if min(self.max_tokens_per_second, self.max_seconds) <= 0:
            raise ValueError("--model.adapter.init_args.max_tokens_per_second and max_seconds must be above 0")


@dataclass(frozen=True)
class MoonshineCollator:
    """Pads audio, and shifts the targets once.

    Attributes:
        extractor: The checkpoint's feature extractor.
        tokenizer: The checkpoint's tokenizer.
        rules: Start token and end token.
        pad_to_multiple: Number of samples that the length of every batch is a multiple of.
        max_target_tokens: Number of positions of the decoder.
    """

    extractor: Any
    tokenizer: Any
    rules: GreedyRules
    pad_to_multiple: int
    max_target_tokens: int

    def __call__(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """Batch ``utterances`` in their order.

        The inputs are ``input_values`` float32 ``[B, T]``, ``attention_mask`` int64 ``[B, T]`` and
        ``decoder_input_ids`` ``[B, U]``.

        Raises:
            ValueError: A transcript has more tokens than the decoder has positions. The message names the uid.
        """
        tokens = {u.uid: self._tokens(u.text) for u in utterances}
        refuse_long(tokens, len(self.rules.prompt), self.max_target_tokens)
        shifted = shift_once(self.rules.prompt, [tokens[u.uid] for u in utterances], self.rules.eos)
        audio = self.extractor(
            [u.waveform.numpy() for u in utterances],
            sampling_rate=self.extractor.sampling_rate,
            padding="longest",
            pad_to_multiple_of=self.pad_to_multiple,
            return_attention_mask=True,
            return_tensors="pt",
        )
        return SpeechBatch.of(
            utterances,
            inputs={
                "input_values": audio.input_values,
                "attention_mask": audio.attention_mask.long(),
                "decoder_input_ids": shifted.decoder_input_ids,
            },
            targets=shifted.targets,
            target_lengths=shifted.target_lengths,
        )

    def check(self, texts: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Refuse transcripts with more tokens than the decoder has positions; warn of another style than the model's.

        Raises:
            ValueError: There are such transcripts; the message lists them.
        """
        tokens = {name: self._tokens(text) for name, text in texts.items()}
        refuse_long(tokens, len(self.rules.prompt), self.max_target_tokens)
        warn_of_style(texts.values(), characters_of(self.tokenizer))

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return tokens


class MoonshineAdapter:
    """Moonshine tiny and base, and Moonshine Streaming tiny, small and medium.

    Args:
        source: A hub id such as ``moonshine-ai/moonshine-tiny``, a Hugging Face folder or one written by ``save``.
        max_tokens_per_second: Cap on the text of a clip, which may have 8 tokens more. None takes what the source was
            saved with, else 7, which fits English; take 14 or more for scripts that are spelled in bytes.
        max_seconds: Length of the longest clip; longer ones are refused. None takes what the source was saved with,
            else 30.
        label_smoothing: Share of each token's weight that is spread over all tokens while training.
        lora: LoRA, which trains low-rank matrices in place of the weights if ``lora.rank`` is above 0.

    Raises:
        ValueError: The source cannot be loaded or is no Moonshine, or an option is out of range.
    """

    groups: Mapping[str, tuple[str, ...]] = {"encoder": ("model.encoder",), "decoder": ("model.decoder", "proj_out")}
    """In the first generation ``proj_out`` is the decoder's embedding under another name."""

    def __init__(
        self,
        source: str,
        max_tokens_per_second: float | None = None,
        max_seconds: float | None = None,
        label_smoothing: float = 0.0,
        lora: LoRA = LoRA(),  # noqa: B008 - frozen
    ) -> None:
        self.options = saved.resolve_options(
            source, MoonshineOptions(), max_tokens_per_second=max_tokens_per_second, max_seconds=max_seconds
        )
        self.label_smoothing = validate_smoothing(label_smoothing)
        self.model, self.tokenizer, self.extractor, self.source = load_moonshine(source, PAD_TO_MULTIPLE)
        self.pad_to_multiple = PAD_TO_MULTIPLE[self.model.config.model_type]
        self._set_special_tokens()
        self._lora = LoRANetwork(self.model, lora)

    def _set_special_tokens(self) -> None:
        """Set start, end and pad token once, also for ``generate`` and every saved folder.

        The first generation has no pad token, without which upstream's own loss fails.
        """
        config, generation = self.model.config, self.model.generation_config
        eos = config.eos_token_id if isinstance(config.eos_token_id, int) else config.eos_token_id[0]
        start = next(i for i in (config.decoder_start_token_id, config.bos_token_id) if i is not None)
        self.rules = GreedyRules(prompt=(start,), eos=eos)
        for settings in (config, generation):
            settings.decoder_start_token_id = start
            settings.pad_token_id = eos if settings.pad_token_id is None else settings.pad_token_id

    @property
    def limits(self) -> AudioLimits:
        """Limits of the checkpoint. Padding changes the result, so dev and test are read in a fixed order.

        In the first generation GroupNorm spans the padding; in the second the masks are off by up to four frames.
        """
        return AudioLimits(
            sample_rate=self.extractor.sampling_rate,
            max_seconds=float(self.options.max_seconds),
            max_target_tokens=self.model.config.max_position_embeddings,
            padding_invariant=False,
        )

    def collator(self) -> Collator:
        """Make a collator, which holds tokenizer and feature extractor."""
        max_tokens = self.model.config.max_position_embeddings
        return MoonshineCollator(self.extractor, self.tokenizer, self.rules, self.pad_to_multiple, max_tokens)

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the mean cross entropy per token.

        The collator aligns inputs and targets: upstream shifted its ``labels`` twice before transformers 5.15.
        """
        return self._decoder.loss(self._forced(batch), batch)

    @torch.no_grad()
    def transcribe(self, batch: SpeechBatch) -> list[str]:
        """Decode greedily, each clip up to a cap by its own duration."""
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
            self.tokenizer,
            self.rules,
            self.options.max_tokens_per_second,
            self.model.config.max_position_embeddings,
            self.label_smoothing,
        )

    def _forced(self, batch: SpeechBatch) -> TeacherForced:
        audio, mask = batch.inputs["input_values"], batch.inputs["attention_mask"]
        with no_host_reads(audio.device):
            encoded = self.model.model.encoder(audio, attention_mask=mask)
        return self._decoder.forced(encoded.last_hidden_state, batch, encoded.attention_mask)

    def evaluating(self) -> AbstractContextManager[None]:
        """Put the network into eval mode inside the context, and restore the mode of every submodule after it."""
        return evaluation_mode(self.model)

    def native(self) -> ASRAdapter:
        """Return the adapter itself: Moonshine reads audio at its true length."""
        return self

    def save(self, directory: Path) -> None:
        """Write a plain Hugging Face folder: weights in float32, tokenizer, feature extractor, generation config."""
        pretrained.write(directory, self._lora.merged(), self.tokenizer, self.extractor)
        saved.describe(directory, self, asdict(self.options) | {"label_smoothing": self.label_smoothing})

    def text_options(self) -> Mapping[str, object]:
        """Return everything that decides the text beside weights and input; optional (``known_texts.py``)."""
        parts = self.model.config, self.tokenizer, self.extractor
        return asdict(self.options) | asdict(self.rules) | pretrained.text_options(*parts)
