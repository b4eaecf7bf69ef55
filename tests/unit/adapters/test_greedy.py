"""Greedy decoding from a draft, against decoding one row at a time without cache and without draft."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import WhisperConfig, WhisperForConditionalGeneration

from asr_lightning.adapters.shared.greedy import Decoder, GreedyRules, agreed_tokens, greedy, teacher_forced
from asr_lightning.adapters.shared.seq2seq import shift_once
from asr_lightning.types import SpeechBatch, Utterance

EOS = 3
RULES = GreedyRules(prompt=(1, 2), eos=EOS, suppress=(5, 6, 1), begin_suppress=(7, EOS))
CAPS = [1, 2, 4, 9, 20, 20]


def make_model() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.5, max_source_positions=60,
        decoder_start_token_id=1, eos_token_id=EOS, pad_token_id=EOS, bos_token_id=EOS,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config).eval()


def batch_of(drafts: list[list[int]], prompt: tuple[int, ...] = RULES.prompt) -> SpeechBatch:
    shifted = shift_once(prompt, drafts, EOS)
    second = [Utterance(str(number), torch.zeros(16_000), 16_000, "") for number in range(len(drafts))]
    inputs = {"decoder_input_ids": shifted.decoder_input_ids}
    return SpeechBatch.of(second, inputs, shifted.targets, shifted.target_lengths)


@torch.no_grad()
def decode(model, hidden, drafts, caps=CAPS, rules=RULES) -> list[list[int]]:
    decoder, batch = Decoder(model.model.decoder, model.proj_out, rules), batch_of(drafts, rules.prompt)
    return greedy(decoder, teacher_forced(decoder, hidden, batch), batch.targets, caps)


@torch.no_grad()
def reference_greedy(model, hidden, rules: GreedyRules, cap: int) -> list[int]:
    """One row, no cache, every step from scratch."""
    ids = list(rules.prompt)
    for step in range(cap):
        states = model.model.decoder(input_ids=torch.tensor([ids]), encoder_hidden_states=hidden[None])
        logits = model.proj_out(states.last_hidden_state[0, -1])
        logits[list(rules.suppress)] = -torch.inf
        if step == 0:
            logits[list(rules.begin_suppress)] = -torch.inf
        token = int(logits.argmax())
        if token == rules.eos:
            break
        ids.append(token)
    return ids[len(rules.prompt) :]


@pytest.fixture(scope="module", params=range(3))
def case(request):
    """A model, six clips and what they must give; caps and end tokens fall at different steps."""
    model = make_model()
    hidden = 3 * torch.randn(6, 20, 32, generator=torch.Generator().manual_seed(request.param))
    expected = [reference_greedy(model, h, RULES, cap) for h, cap in zip(hidden, CAPS, strict=True)]
    assert len({tuple(row) for row in expected}) > 3, "the rows are too alike to test anything"
    return model, hidden, expected


def test_greedy_without_a_draft_equals_decoding_alone(case):
    """Rows leave the batch while others go on."""
    model, hidden, expected = case
    assert decode(model, hidden, [[] for _ in CAPS]) == expected


def test_greedy_with_a_perfect_draft_takes_one_pass(case):
    model, hidden, expected = case
    passes = []
    handle = model.model.decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    caps = [len(row) + 1 for row in expected]  # so that the end of the draft is not the end of the row's room
    expected = [reference_greedy(model, h, RULES, cap) for h, cap in zip(hidden, caps, strict=True)]
    passes.clear()
    assert decode(model, hidden, expected, caps) == expected
    handle.remove()
    assert len(passes) == 1


@pytest.mark.parametrize("seed", range(20))
def test_draft_equals_greedy(case, seed: int):
    """Whatever the draft gets wrong: a token, too many, too few, everything, a forbidden one, an end too early."""
    model, hidden, expected = case
    rng = random.Random(seed)
    drafts = [list(row) for row in expected]
    for draft in drafts:
        for _ in range(rng.randrange(3)):
            place = rng.randrange(len(draft) + 1)
            draft[place : place + rng.randrange(2)] = [rng.randrange(40) for _ in range(rng.randrange(3))]
    assert decode(model, hidden, drafts) == expected


def test_a_tie_is_left_to_the_steps():
    """Of two equal logits the pass must not choose: a batch of another shape may round the other way."""
    logits = torch.zeros(2, 40)
    logits[0, 8], logits[0, 9], logits[1, EOS] = 5.0, 5.0 - 1e-6, 5.0
    assert agreed_tokens(RULES, logits, [torch.tensor([8, EOS])]) == [[]]
    logits[0, 9] = 4.9
    assert agreed_tokens(RULES, logits, [torch.tensor([8, EOS])]) == [[8, EOS]]
    assert agreed_tokens(RULES, logits.bfloat16(), [torch.tensor([8, EOS])]) == [[]]


def test_a_tie_at_the_first_token_of_a_one_token_prompt():
    """Nothing of that row is decided and nothing of it is cached, while another row is finished: Moonshine's prompt."""
    model, rules = make_model(), GreedyRules(prompt=(1,), eos=EOS)
    hidden, caps = 3 * torch.randn(3, 20, 32, generator=torch.Generator().manual_seed(0)), [1, 9, 9]
    alone = [reference_greedy(model, h, rules, cap) for h, cap in zip(hidden, caps, strict=True)]
    finished, tied = alone[0][0], alone[1][0]
    assert finished not in (tied, EOS)
    with torch.no_grad():  # the head too: both are one tensor
        model.proj_out.weight[39] = model.proj_out.weight[tied]
    tokens = decode(model, hidden, alone, caps, rules)
    assert [[tied if token == 39 else token for token in row] for row in tokens] == alone


def test_greedy_leaves_a_short_batch_early():
    """One row that is done must not be decoded on: the decoder sees fewer and fewer rows."""
    model = make_model()
    seen: list[int] = []
    model.model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    rules = GreedyRules(prompt=(1, 2), eos=EOS, suppress=(EOS,))
    decode(model, torch.randn(4, 20, 32), [[]] * 4, [1, 1, 1, 6], rules)
    assert seen == [4, 1, 1, 1, 1, 1]
