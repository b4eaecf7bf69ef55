"""What attention decoders share: shifted targets, masked cross entropy and a token cap per row. ``greedy.py`` decodes.

Knows no audio, file or trainer. Used by ``whisper/adapter.py`` and ``moonshine/adapter.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from asr_lightning.scoring.text import name_some
from asr_lightning.types import IGNORED, LossOutput

CAP_BASE_TOKENS = 8
CAP_TOKENS_PER_SECOND = 7.0
"""A row may have 8 tokens, and 7 more for each second. The cards of Moonshine's models cap at 6.5 to 13 a second."""


@dataclass(frozen=True)
class Shifted:
    """A batch of targets and the decoder inputs that predict them.

    Attributes:
        decoder_input_ids: Prompt and text, int64 ``[B, U]``, padded with the end token: causality hides it.
        targets: Text and end token, int64 ``[B, U]``, with -100 on the prompt and on padding.
        target_lengths: Number of positions up to and including the end token, int64 ``[B]``.
    """

    decoder_input_ids: Tensor
    targets: Tensor
    target_lengths: Tensor


def shift_once(prompt: Sequence[int], texts: Sequence[Sequence[int]], eos: int) -> Shifted:
    """Align inputs and targets: position u of the decoder is scored against ``targets[:, u]``.

    Padding is marked by length, never by token id: the pad token may be the end token, and a model whose end token is
    never scored does not learn to stop.
    """
    lengths = torch.tensor([len(prompt) + len(text) for text in texts])
    shape = (len(texts), int(lengths.max()))
    decoder_input_ids = torch.full(shape, eos)
    targets = torch.full(shape, IGNORED)
    for row, (text, length) in enumerate(zip(texts, lengths.tolist(), strict=True)):
        decoder_input_ids[row, :length] = torch.tensor([*prompt, *text])
        targets[row, len(prompt) - 1 : length] = torch.tensor([*text, eos])
    return Shifted(decoder_input_ids, targets, lengths)


def refuse_long(texts: Mapping[str, Sequence[int]], num_prompt: int, max_tokens: int | None) -> None:
    """Refuse texts that, with a prompt of ``num_prompt`` tokens, have more tokens than the decoder has positions.

    Args:
        texts: Tokens of each text, by the name that the user knows the recording by.
        num_prompt: Number of tokens before each text.
        max_tokens: Number of positions of the decoder; None allows any length.

    Raises:
        ValueError: Some texts are too long; the message lists them.
    """
    problems = [
        f"the transcript of {name} has {num_prompt + len(tokens)} tokens with the prompt, the model takes "
        f"{max_tokens}: cut the recording into shorter clips, or check that the transcript belongs to it"
        for name, tokens in texts.items()
        if max_tokens is not None and num_prompt + len(tokens) > max_tokens
    ]
    if problems:
        raise ValueError(name_some(problems, "\n"))


def scored_cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> LossOutput:
    """Return the mean cross entropy over the scored positions, in float32.

    Args:
        logits: ``[N, V]`` at the scored positions, in their order.
        targets: Targets of these positions, int64 ``[N]``.
        label_smoothing: Share of the target's weight that is spread evenly over the vocabulary.
    """
    return LossOutput(F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing), len(targets))


def validate_smoothing(label_smoothing: float) -> float:
    """Return ``label_smoothing`` if it is valid.

    Raises:
        ValueError: It is not a share from 0 to below 1.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"--model.adapter.init_args.label_smoothing is a share from 0 to below 1, and not {label_smoothing}"
        )
    return label_smoothing


def token_caps(seconds: Tensor, tokens_per_second: float, max_tokens: int) -> list[int]:
    """Cap on the new tokens of each row, from its duration and never from the reference; at most ``max_tokens``."""
    return [min(CAP_BASE_TOKENS + math.ceil(tokens_per_second * s), max_tokens) for s in seconds.tolist()]
