"""Greedy decoding that starts from a teacher-forced pass: as exact as token by token, and several times as fast.

The pass over a batch's own text gives the loss and, as a draft, everything that step-by-step decoding would have
written up to the first place where it would differ. Only from there on the model writes token by token. A draft makes
decoding faster and never changes its result. Knows no audio and no trainer.
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
"""If the two best logits are closer than this many units in the last place, they count as a tie, which the pass does
not decide: a batch of another shape may round the other way. In bfloat16 every choice is a tie, and decoding is step by
step."""


@dataclass(frozen=True)
class GreedyRules:
    """Rules of greedy decoding.

    Attributes:
        prompt: Tokens that every row starts with.
        eos: Token that ends a row.
        suppress: Tokens that are never emitted.
        begin_suppress: Tokens that are not emitted first.
    """

    prompt: tuple[int, ...]
    eos: int
    suppress: tuple[int, ...] = ()
    begin_suppress: tuple[int, ...] = ()

    def apply(self, logits: Tensor, first: Tensor) -> Tensor:
        """Set the forbidden tokens of ``logits`` ``[N, V]`` to minus infinity, in place; ``first`` is bool ``[N]``."""
        logits[:, list(self.suppress)] = -torch.inf
        starts = first.nonzero()
        logits[starts, torch.tensor(self.begin_suppress, dtype=torch.long, device=logits.device)] = -torch.inf
        return logits


@dataclass(frozen=True)
class Decoder:
    """A Hugging Face decoder with its output layer.

    Attributes:
        network: Decoder that takes ``input_ids``, ``encoder_hidden_states`` and ``past_key_values``.
        head: Output layer, from hidden states ``[N, D]`` to logits ``[N, V]``.
        rules: Rules of greedy decoding.
    """

    network: Callable[..., Any]
    head: Callable[[Tensor], Tensor]
    rules: GreedyRules

    def step(self, ids: Tensor, hidden: Tensor, mask: Tensor | None, cache: EncoderDecoderCache | None) -> Tensor:
        """Return the hidden states ``[B, U, D]`` of the tokens ``ids`` ``[B, U]`` that follow those in ``cache``."""
        masks: Mapping[str, Tensor] = {} if mask is None else {"encoder_attention_mask": mask}
        caching = {"past_key_values": cache, "use_cache": cache is not None}
        output = self.network(input_ids=ids, encoder_hidden_states=hidden, **caching, **masks)
        states: Tensor = output.last_hidden_state
        return states


@dataclass
class TeacherForced:
    """Result of running the decoder over a batch's own text: the loss is made of it, and decoding continues from it.

    Attributes:
        logits: Logits at the scored positions, row after row, ``[N, V]``.
        hidden: Encoder output ``[B, F', D]``.
        mask: Mask of the frames of ``hidden`` that are audio, ``[B, F']``; None if all of them are.
        cache: Keys and values of text and audio; None while training.
    """

    logits: Tensor
    hidden: Tensor
    mask: Tensor | None
    cache: EncoderDecoderCache | None


def teacher_forced(decoder: Decoder, hidden: Tensor, batch: SpeechBatch, mask: Tensor | None = None) -> TeacherForced:
    """Run ``decoder`` over the text of ``batch``; without gradients, keys and values are cached.

    The output layer runs on scored positions alone: a third of a batch is padding, and Whisper's is 51865 wide.
    """
    cache = None if torch.is_grad_enabled() else EncoderDecoderCache(DynamicCache(), DynamicCache())
    with no_host_reads(hidden.device):
        states = decoder.step(batch.inputs["decoder_input_ids"], hidden, mask, cache)
    scored = states.flatten(0, 1).index_select(0, batch.scored)
    return TeacherForced(decoder.head(scored), hidden, mask, cache)


@torch.no_grad()
def greedy(decoder: Decoder, forced: TeacherForced, targets: Tensor, caps: Sequence[int]) -> list[list[int]]:
    """Return the new tokens of each row, without prompt and end token, as Hugging Face's greedy ``generate`` does.

    Args:
        decoder: The decoder that made ``forced``.
        forced: The pass over the text of the batch; its cache is used up by this call.
        targets: Targets of the batch, int64 ``[B, U]``.
        caps: Cap on the number of new tokens of each row.
    """
    eos = decoder.rules.eos
    tokens = agreed_tokens(decoder.rules, forced.logits, [row[row != IGNORED] for row in targets])
    tokens = [row[:cap] for row, cap in zip(tokens, caps, strict=True)]
    unfinished = [row for row, cap in enumerate(caps) if not _finished(tokens[row], eos, cap)]
    if unfinished:
        _decode_step_by_step(decoder, forced, tokens, unfinished, caps)
    return [row[:-1] if row[-1:] == [eos] else row for row in tokens]


def agreed_tokens(rules: GreedyRules, logits: Tensor, drafts: Sequence[Tensor]) -> list[list[int]]:
    """Return the tokens of each row up to and including the first that differs from its draft, or up to a tie.

    Args:
        rules: Rules of greedy decoding.
        logits: Logits at the positions of all drafts, row after row, ``[N, V]``.
        drafts: Texts as int64 tokens, end token included.
    """
    lengths = [len(draft) for draft in drafts]
    first = torch.zeros(sum(lengths), dtype=torch.bool, device=logits.device)
    first[torch.tensor([0, *lengths[:-1]]).cumsum(0)] = True
    allowed = rules.apply(logits.float().clone(), first)
    best, chosen = allowed.max(-1)
    second = allowed.scatter_(1, chosen[:, None], -torch.inf).amax(-1)
    is_clear = best - second > TIE * torch.finfo(logits.dtype).eps * best.abs()
    agrees = is_clear & (chosen == torch.cat(list(drafts)))
    rows = zip(chosen.split(lengths), agrees.split(lengths), is_clear.split(lengths), strict=True)
    return [_agreed_prefix(c.tolist(), a.tolist(), i.tolist()) for c, a, i in rows]


def _agreed_prefix(chosen: list[int], agrees: list[bool], is_clear: list[bool]) -> list[int]:
    """The tokens before the first that does not agree with the draft, and that token too if it is no tie."""
    first = agrees.index(False) if False in agrees else len(agrees)
    return chosen[: first + 1] if first < len(agrees) and is_clear[first] else chosen[:first]


def _finished(row: list[int], eos: int, cap: int) -> bool:
    return row[-1:] == [eos] or len(row) >= cap


def _decode_step_by_step(
    decoder: Decoder, forced: TeacherForced, tokens: list[list[int]], rows: list[int], caps: Sequence[int]
) -> None:
    """Append to ``tokens`` of ``rows``, token by token; tokens that a row already has are fed to it, not chosen anew.

    Cross-attention keys are those of the pass, and finished rows leave the batch, so that one looping clip does not
    make the others wait.
    """
    rules, cache, hidden, mask = decoder.rules, forced.cache, forced.hidden, forced.mask
    assert cache is not None, "greedy decoding continues from a pass that was made without gradients"
    hidden, mask = _narrow(cache, hidden, mask, rows)
    done = min(len(tokens[row]) for row in rows)
    # Select rows before cropping: transformers cannot select rows of an empty cache, and cropping leaves one where a
    # row with a one-token prompt ties at its first token.
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
    """Return ``hidden`` and ``mask`` of the rows at ``places`` alone; ``cache`` is narrowed in place."""
    keep = torch.tensor(places, device=hidden.device)
    cache.batch_select_indices(keep)
    return hidden[keep], None if mask is None else mask[keep]
