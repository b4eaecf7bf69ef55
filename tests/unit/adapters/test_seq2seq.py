"""The shift, the loss, the cap and greedy decoding, each against an independent reference."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from transformers import WhisperConfig, WhisperForConditionalGeneration

from asr_lightning.adapters._seq2seq import (
    GreedyRules,
    greedy,
    scored_cross_entropy,
    shift_once,
    token_caps,
)

EOS = 3
RULES = GreedyRules(prompt=(1, 2), eos=EOS, suppress=(5, 6, 1), begin_suppress=(7, EOS))


def make_model() -> WhisperForConditionalGeneration:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.5, max_source_positions=60,
        decoder_start_token_id=1, eos_token_id=EOS, pad_token_id=EOS, bos_token_id=EOS,
        suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    return WhisperForConditionalGeneration(config).eval()


def test_shift_example():
    shifted = shift_once([1, 2], [[10, 11, 12], [20]], EOS)
    assert shifted.decoder_input_ids.tolist() == [[1, 2, 10, 11, 12], [1, 2, 20, EOS, EOS]]
    assert shifted.targets.tolist() == [[-100, 10, 11, 12, EOS], [-100, 20, EOS, -100, -100]]
    assert shifted.target_lengths.tolist() == [5, 3]


def test_last_unmasked_label_is_eos():
    """The end token stays scored although padding has the same id, also for a transcript that holds it."""
    shifted = shift_once([1, 2], [[10, EOS, 12], [], [20]], EOS)
    for targets, length in zip(shifted.targets, shifted.target_lengths, strict=True):
        assert targets[length - 1] == EOS
        assert (targets[length:] == -100).all()
    assert (shifted.targets != -100).sum(1).tolist() == [4, 1, 2]


def test_loss_is_the_mean_over_scored_tokens_in_float32():
    torch.manual_seed(0)
    hidden, head = torch.randn(2, 5, 8), torch.nn.Linear(8, 40)
    targets = shift_once([1, 2], [[10, 11, 12], [20]], EOS).targets
    expected = F.cross_entropy(head(hidden).transpose(1, 2), targets, ignore_index=-100)
    output = scored_cross_entropy(hidden, head, targets)
    torch.testing.assert_close(output.loss, expected)
    assert output.weight == 6
    assert scored_cross_entropy(hidden.bfloat16(), head.bfloat16(), targets).loss.dtype == torch.float32


def test_cap_is_per_utterance():
    caps = token_caps(torch.tensor([0.5, 3.0, 100.0]), tokens_per_second=7.0, max_tokens=446)
    assert caps == [12, 29, 446]


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


@pytest.mark.parametrize("seed", range(3))
def test_greedy_equals_decoding_alone_without_cache(seed: int):
    """Caps and end tokens fall at different steps, so rows leave the batch while others go on."""
    model = make_model()
    hidden = 3 * torch.randn(6, 20, 32, generator=torch.Generator().manual_seed(seed))
    caps = [1, 2, 4, 9, 20, 20]
    expected = [reference_greedy(model, h, RULES, cap) for h, cap in zip(hidden, caps, strict=True)]
    assert greedy(model.model.decoder, model.proj_out, hidden, RULES, caps) == expected
    assert len({tuple(row) for row in expected}) > 3, "the rows are too alike to test anything"


def test_greedy_leaves_a_short_batch_early():
    """One row that is done must not be decoded on: the decoder sees fewer and fewer rows."""
    model = make_model()
    seen: list[int] = []
    model.model.decoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape[0]), with_kwargs=True
    )
    rules = GreedyRules(prompt=(1, 2), eos=EOS, suppress=(EOS,))
    greedy(model.model.decoder, model.proj_out, torch.randn(4, 20, 32), rules, [1, 1, 1, 6])
    assert seen == [4, 1, 1, 1, 1, 1]
