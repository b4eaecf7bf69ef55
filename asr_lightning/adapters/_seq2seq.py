"""What attention decoders share: one shift, masked cross entropy, greedy decoding with a token cap per row.

Must never know audio, files or a trainer. Used by ``whisper.py`` and ``moonshine.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache, EncoderDecoderCache

from asr_lightning.text import name_some
from asr_lightning.types import LossOutput

IGNORED = -100
"""Target at positions that are not scored. Source: the default of ``torch.nn.functional.cross_entropy``."""

CAP_BASE_TOKENS = 8
CAP_TOKENS_PER_SECOND = 7.0
"""Token cap of one row: 8 + 7 per second. Source: training.md section 5; Moonshine's heuristics are 6.5 to 13."""

COMPACT_BELOW = 0.75
"""Share of unfinished rows below which finished ones are dropped from the cache, which costs one copy of it."""


@dataclass(frozen=True)
class Shifted:
    """A batch of targets and the decoder inputs that predict them.

    Attributes:
        decoder_input_ids: int64 ``[B, U]``: prompt and text; padded with the end token, which causality hides.
        targets: int64 ``[B, U]``: text and end token, -100 on the prompt and on padding.
        target_lengths: int64 ``[B]``, positions up to and including the end token.
    """

    decoder_input_ids: Tensor
    targets: Tensor
    target_lengths: Tensor


def shift_once(prompt: Sequence[int], texts: Sequence[Sequence[int]], eos: int) -> Shifted:
    """Align inputs and targets: position u of the decoder is scored against ``targets[:, u]``.

    Padding is marked by length, never by token id: the pad token may be the end token, and a model whose end token
    is never scored does not stop (pitfall T2).
    """
    lengths = torch.tensor([len(prompt) + len(text) for text in texts])
    shape = (len(texts), int(lengths.max()))
    decoder_input_ids = torch.full(shape, eos)
    targets = torch.full(shape, IGNORED)
    for row, (text, length) in enumerate(zip(texts, lengths.tolist(), strict=True)):
        decoder_input_ids[row, :length] = torch.tensor([*prompt, *text])
        targets[row, len(prompt) - 1 : length] = torch.tensor([*text, eos])
    return Shifted(decoder_input_ids, targets, lengths)


def refuse_long(texts: Mapping[str, Sequence[int]], num_prompt: int, most: int | None) -> None:
    """Refuse texts that, with a prompt of ``num_prompt`` tokens, have more than the decoder has positions.

    Args:
        texts: Tokens by the name that the user knows the recording by.
        num_prompt: Tokens before each text.
        most: Positions of the decoder; None for any number.

    Raises:
        ValueError: Lists them.
    """
    problems = [
        f"the transcript of {name} has {num_prompt + len(tokens)} tokens with the prompt, the model takes {most}: "
        "cut the recording into shorter clips, or check that the transcript belongs to it"
        for name, tokens in texts.items()
        if most is not None and num_prompt + len(tokens) > most
    ]
    if problems:
        raise ValueError(name_some(problems, "\n"))


def scored_cross_entropy(hidden: Tensor, head: Callable[[Tensor], Tensor], targets: Tensor) -> LossOutput:
    """Mean cross entropy over the scored positions only, in float32.

    The head runs on scored positions alone: a third of a batch is padding, and Whisper's head is 51865 wide.

    Args:
        hidden: Decoder output ``[B, U, D]``.
        head: ``[N, D]`` to logits ``[N, V]``.
        targets: int64 ``[B, U]``, -100 where nothing is scored.
    """
    scored = targets != IGNORED
    logits = head(hidden[scored]).float()
    return LossOutput(F.cross_entropy(logits, targets[scored]), logits.shape[0])


def token_caps(seconds: Tensor, tokens_per_second: float, max_tokens: int) -> list[int]:
    """Most new tokens of each row, from its duration and never from the reference; at most ``max_tokens``."""
    return [min(CAP_BASE_TOKENS + math.ceil(tokens_per_second * s), max_tokens) for s in seconds.tolist()]


@dataclass(frozen=True)
class GreedyRules:
    """What greedy decoding may emit.

    Attributes:
        prompt: Tokens every row starts from.
        eos: Token that ends a row.
        suppress: Tokens never emitted.
        begin_suppress: Tokens not emitted first.
    """

    prompt: tuple[int, ...]
    eos: int
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()

    def apply(self, logits: Tensor, first: bool) -> Tensor:
        """``logits`` ``[B, V]`` with the forbidden tokens at minus infinity, in place."""
        forbidden = self.suppress + (self.begin_suppress if first else ())
        if forbidden:
            logits[:, list(forbidden)] = -torch.inf
        return logits


@torch.no_grad()
def greedy(
    decoder: Callable[..., Any],
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    rules: GreedyRules,
    caps: Sequence[int],
    mask: Tensor | None = None,
) -> list[list[int]]:
    """New tokens of each row, without prompt and end token; equals Hugging Face's greedy ``generate``.

    Cross-attention keys are computed once, and finished rows leave the batch, so that one looping clip does not make
    the others wait (pitfall T17).

    Args:
        decoder: A Hugging Face decoder that takes ``past_key_values``.
        head: ``[B, D]`` to logits ``[B, V]``.
        hidden: Encoder output ``[B, F', D]``.
        rules: Prompt, end token and suppressed tokens.
        caps: Most new tokens of each row.
        mask: ``[B, F']``, what of ``hidden`` is audio; None is all of it.
    """
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    ids = torch.tensor([rules.prompt], device=hidden.device).expand(len(caps), -1)
    rows = list(range(len(caps)))
    tokens: list[list[int]] = [[] for _ in rows]
    open_rows = set(rows)
    for step in range(max(caps)):
        masked = {} if mask is None else {"encoder_attention_mask": mask}
        states = decoder(input_ids=ids, encoder_hidden_states=hidden, past_key_values=cache, use_cache=True, **masked)
        chosen = rules.apply(head(states.last_hidden_state[:, -1]).float(), first=step == 0).argmax(-1)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            _append(tokens[row], token, row, open_rows, rules.eos, caps[row])
        if not open_rows:
            break
        ids = chosen[:, None]
        if len(open_rows) < COMPACT_BELOW * len(rows):
            keep = torch.tensor([i for i, row in enumerate(rows) if row in open_rows], device=ids.device)
            cache.batch_select_indices(keep)
            ids, hidden, rows = ids[keep], hidden[keep], [rows[i] for i in keep.tolist()]
            mask = None if mask is None else mask[keep]
    return tokens


def _append(tokens: list[int], token: int, row: int, open_rows: set[int], eos: int, cap: int) -> None:
    if row not in open_rows:
        return
    if token != eos:
        tokens.append(token)
    if token == eos or len(tokens) == cap:
        open_rows.remove(row)
