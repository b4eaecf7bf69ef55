"""Greedy decoding that starts from a teacher-forced pass: as exact as token by token, and several times as fast.

The pass over a batch's own text gives the loss and, as a draft, everything that step-by-step decoding would have
written up to the first place where it would differ. Only from there the model writes token by token. A draft can
make decoding faster and never change what it finds (T7). Must never know audio or a trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from asr_lightning.adapters.shared.attention_masks import no_host_reads
from asr_lightning.types import IGNORED, SpeechBatch

COMPACT_BELOW = 0.75
"""Share of unfinished rows below which finished ones are dropped from the cache, which costs one copy of it."""

TIE = 1024
"""Two best logits closer than this many units in the last place count as a tie, which the pass does not decide: a
batch of another shape may round the other way. In bfloat16 everything is one, and decoding is step by step."""


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

    def apply(self, logits: Tensor, first: Tensor) -> Tensor:
        """``logits`` ``[N, V]`` with the forbidden tokens at minus infinity, in place; ``first`` bool ``[N]``."""
        logits[:, list(self.suppress)] = -torch.inf
        starts = first.nonzero()
        logits[starts, torch.tensor(self.begin_suppress, dtype=torch.long, device=logits.device)] = -torch.inf
        return logits


@dataclass(frozen=True)
class Decoder:
    """A Hugging Face decoder with its head.

    Attributes:
        network: Takes ``input_ids``, ``encoder_hidden_states`` and ``past_key_values``.
        head: Hidden states ``[N, D]`` to logits ``[N, V]``.
        rules: What may be written.
    """

    network: Callable[..., Any]
    head: Callable[[Tensor], Tensor]
    rules: GreedyRules

    def step(self, ids: Tensor, hidden: Tensor, mask: Tensor | None, cache: EncoderDecoderCache | None) -> Tensor:
        """Hidden states ``[B, U, D]`` for the tokens ``ids`` ``[B, U]`` that follow what ``cache`` holds."""
        masked: Mapping[str, Tensor] = {} if mask is None else {"encoder_attention_mask": mask}
        used = {"past_key_values": cache, "use_cache": cache is not None}
        states: Tensor = self.network(input_ids=ids, encoder_hidden_states=hidden, **used, **masked).last_hidden_state
        return states


@dataclass
class TeacherForced:
    """A batch's text under the decoder: what the loss is made of, and where decoding goes on.

    Attributes:
        logits: ``[N, V]`` at the scored positions, row after row.
        hidden: Encoder output ``[B, F', D]``.
        mask: ``[B, F']``, what of ``hidden`` is audio; None is all of it.
        cache: Keys and values of text and audio; None while training.
    """

    logits: Tensor
    hidden: Tensor
    mask: Tensor | None
    cache: EncoderDecoderCache | None


def teacher_forced(decoder: Decoder, hidden: Tensor, batch: SpeechBatch, mask: Tensor | None = None) -> TeacherForced:
    """Run ``decoder`` over the text of ``batch``; keys and values are kept where no gradient is.

    The head runs on scored positions alone: a third of a batch is padding, and Whisper's head is 51865 wide.
    """
    cache = None if torch.is_grad_enabled() else EncoderDecoderCache(DynamicCache(), DynamicCache())
    with no_host_reads(hidden.device):
        states = decoder.step(batch.inputs["decoder_input_ids"], hidden, mask, cache)
    scored = states.flatten(0, 1).index_select(0, batch.scored)
    return TeacherForced(decoder.head(scored), hidden, mask, cache)


@torch.no_grad()
def greedy(decoder: Decoder, forced: TeacherForced, targets: Tensor, caps: Sequence[int]) -> list[list[int]]:
    """New tokens of each row, without prompt and end token; equals Hugging Face's greedy ``generate``.

    Args:
        decoder: The decoder that made ``forced``.
        forced: The pass over the text of the batch; its cache is used up by this call.
        targets: int64 ``[B, U]`` of the batch.
        caps: Most new tokens of each row.
    """
    eos = decoder.rules.eos
    tokens = agreed(decoder.rules, forced.logits, [row[row != IGNORED] for row in targets])
    tokens = [row[:cap] for row, cap in zip(tokens, caps, strict=True)]
    unfinished = [row for row, cap in enumerate(caps) if not _finished(tokens[row], eos, cap)]
    if unfinished:
        _go_on(decoder, forced, tokens, unfinished, caps)
    return [row[:-1] if row[-1:] == [eos] else row for row in tokens]


def agreed(rules: GreedyRules, logits: Tensor, drafts: Sequence[Tensor]) -> list[list[int]]:
    """Tokens of each row up to and including the first that differs from its draft, or up to a tie.

    Args:
        rules: What may be written.
        logits: ``[N, V]`` over all drafts, row after row.
        drafts: int64, end token included.
    """
    lengths = [len(draft) for draft in drafts]
    first = torch.zeros(sum(lengths), dtype=torch.bool, device=logits.device)
    first[torch.tensor([0, *lengths[:-1]]).cumsum(0)] = True
    allowed = rules.apply(logits.float().clone(), first)
    best, chosen = allowed.max(-1)
    second = allowed.scatter_(1, chosen[:, None], -torch.inf).amax(-1)
    sure = best - second > TIE * torch.finfo(logits.dtype).eps * best.abs()
    right = sure & (chosen == torch.cat(list(drafts)))
    rows = zip(chosen.split(lengths), right.split(lengths), sure.split(lengths), strict=True)
    return [_prefix(c.tolist(), r.tolist(), s.tolist()) for c, r, s in rows]


def _prefix(chosen: list[int], right: list[bool], sure: list[bool]) -> list[int]:
    """Up to the first place that is not right, and that one too if the model was sure of it."""
    wrong = right.index(False) if False in right else len(right)
    return chosen[: wrong + 1] if wrong < len(right) and sure[wrong] else chosen[:wrong]


def _finished(row: list[int], eos: int, cap: int) -> bool:
    return row[-1:] == [eos] or len(row) >= cap


def _go_on(
    decoder: Decoder, forced: TeacherForced, tokens: list[list[int]], rows: list[int], caps: Sequence[int]
) -> None:
    """Append to ``tokens`` of ``rows``, token by token; what a row already knows is fed to it, not chosen anew.

    Cross-attention keys are those of the pass, and finished rows leave the batch, so that one looping clip does not
    make the others wait (T17).
    """
    rules, cache, hidden, mask = decoder.rules, forced.cache, forced.hidden, forced.mask
    assert cache is not None, "greedy goes on from a pass made without gradients"
    hidden, mask = _narrow(cache, hidden, mask, rows)
    done = min(len(tokens[row]) for row in rows)
    # Rows first, then crop: transformers selects no row of an empty cache, and one is left empty where a row of a
    # one-token prompt ties at its first token.
    cache.crop(len(rules.prompt) + done - 1 - cache.get_seq_length())
    while True:
        fed = [[*rules.prompt, *tokens[row]][: len(rules.prompt) + done][-1] for row in rows]
        states = decoder.step(torch.tensor(fed, device=hidden.device)[:, None], hidden, mask, cache)
        first = torch.full((len(rows),), done == 0, device=hidden.device)
        chosen = rules.apply(decoder.head(states[:, -1]).float(), first).argmax(-1).tolist()
        for row, token in zip(rows, chosen, strict=True):
            if len(tokens[row]) == done and not _finished(tokens[row], rules.eos, caps[row]):
                tokens[row].append(token)
        done += 1
        unfinished = [place for place, row in enumerate(rows) if not _finished(tokens[row], rules.eos, caps[row])]
        if not unfinished:
            return
        if len(unfinished) < COMPACT_BELOW * len(rows):
            hidden, mask = _narrow(cache, hidden, mask, unfinished)
            rows = [rows[place] for place in unfinished]


def _narrow(
    cache: EncoderDecoderCache, hidden: Tensor, mask: Tensor | None, places: list[int]
) -> tuple[Tensor, Tensor | None]:
    """``hidden`` and ``mask`` of the rows at ``places`` alone; ``cache`` is narrowed in place."""
    keep = torch.tensor(places, device=hidden.device)
    cache.batch_select_indices(keep)
    return hidden[keep], None if mask is None else mask[keep]
