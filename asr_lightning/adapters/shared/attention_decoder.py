"""Loss and text of an encoder's output by an attention decoder, the same for every family that has one.

Must never know audio, files or a trainer. Used by ``whisper/adapter.py`` and ``moonshine/adapter.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from asr_lightning.adapters.modes import evaluation_mode
from asr_lightning.adapters.shared.greedy import Decoder, GreedyRules, TeacherForced, greedy, teacher_forced
from asr_lightning.adapters.shared.seq2seq import scored_cross_entropy, token_caps
from asr_lightning.types import EvaluationOutput, LossOutput, SpeechBatch


@dataclass(frozen=True)
class AttentionDecoder:
    """The decoder of a Hugging Face network that has an encoder too.

    Attributes:
        network: Holds ``model.decoder`` and ``proj_out``.
        tokenizer: Turns tokens into text.
        rules: What may be written.
        tokens_per_second: Cap on the text of a clip, beside a constant.
        max_positions: Of the decoder, prompt included.
        label_smoothing: Of the loss in training.
    """

    network: Any
    tokenizer: Any
    rules: GreedyRules
    tokens_per_second: float
    max_positions: int
    label_smoothing: float = 0.0

    def forced(self, hidden: Tensor, batch: SpeechBatch, mask: Tensor | None = None) -> TeacherForced:
        """The pass over the text of ``batch``: ``hidden`` ``[B, F', D]`` from the encoder, ``mask`` ``[B, F']``."""
        return teacher_forced(self._decoder, hidden, batch, mask)

    def loss(self, forced: TeacherForced, batch: SpeechBatch) -> LossOutput:
        """Mean cross entropy per token."""
        smoothing = self.label_smoothing if self.network.training else 0.0
        return scored_cross_entropy(forced.logits, batch.scored_targets, smoothing)

    @torch.no_grad()
    def texts(self, forced: TeacherForced, batch: SpeechBatch) -> list[str]:
        """Greedy text, each clip capped by its own duration; uses ``forced`` up."""
        caps = token_caps(batch.seconds, self.tokens_per_second, self.max_positions - len(self.rules.prompt))
        with evaluation_mode(self.network):
            tokens = greedy(self._decoder, forced, batch.targets, caps)
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def evaluate(self, forced: TeacherForced, batch: SpeechBatch) -> EvaluationOutput:
        """Both."""
        return EvaluationOutput(self.loss(forced, batch), self.texts(forced, batch))

    @property
    def _decoder(self) -> Decoder:
        return Decoder(self.network.model.decoder, self.network.proj_out, self.rules)
