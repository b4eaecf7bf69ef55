"""Makes loss and text of an encoder's output with an attention decoder, in the same way for every family that has one.

Knows no audio, file or trainer. Used by ``whisper/adapter.py`` and ``moonshine/adapter.py``.
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
    """The decoder of a Hugging Face encoder-decoder network.

    Attributes:
        network: Encoder-decoder network, with ``model.decoder`` and ``proj_out``.
        tokenizer: Tokenizer that turns tokens into text.
        rules: Rules of greedy decoding.
        tokens_per_second: Cap on the text of a clip, to which a constant is added.
        max_positions: Number of positions of the decoder, prompt included.
        label_smoothing: Label smoothing of the loss while training.
    """

    network: Any
    tokenizer: Any
    rules: GreedyRules
    tokens_per_second: float
    max_positions: int
    label_smoothing: float = 0.0

    def forced(self, hidden: Tensor, batch: SpeechBatch, mask: Tensor | None = None) -> TeacherForced:
        """Run the decoder over the text of ``batch``, given ``hidden`` ``[B, F', D]`` and its ``mask`` ``[B, F']``."""
        return teacher_forced(self._decoder, hidden, batch, mask)

    def loss(self, forced: TeacherForced, batch: SpeechBatch) -> LossOutput:
        """Return the mean cross entropy per token."""
        smoothing = self.label_smoothing if self.network.training else 0.0
        return scored_cross_entropy(forced.logits, batch.scored_targets, smoothing)

    @torch.no_grad()
    def texts(self, forced: TeacherForced, batch: SpeechBatch) -> list[str]:
        """Decode greedily, each clip up to a cap by its own duration; the cache of ``forced`` is used up."""
        caps = token_caps(batch.seconds, self.tokens_per_second, self.max_positions - len(self.rules.prompt))
        with evaluation_mode(self.network):
            tokens = greedy(self._decoder, forced, batch.targets, caps)
        texts: list[str] = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def evaluate(self, forced: TeacherForced, batch: SpeechBatch) -> EvaluationOutput:
        """Return loss and text; the cache of ``forced`` is used up."""
        return EvaluationOutput(self.loss(forced, batch), self.texts(forced, batch))

    @property
    def _decoder(self) -> Decoder:
        return Decoder(self.network.model.decoder, self.network.proj_out, self.rules)
