"""The shift, the loss and the cap, each against an independent reference."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from asr_lightning.adapters.shared.seq2seq import scored_cross_entropy, shift_once, token_caps, validate_smoothing

EOS = 3


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
    logits = head(hidden)[targets != -100]
    scored = targets[targets != -100]
    output = scored_cross_entropy(logits, scored)
    torch.testing.assert_close(output.loss, expected)
    assert output.weight == 6
    assert scored_cross_entropy(logits.bfloat16(), scored).loss.dtype == torch.float32


def test_label_smoothing_spreads_weight_over_all_tokens():
    """0.9 of the loss on the target, 0.1 on the mean over the vocabulary."""
    torch.manual_seed(0)
    logits, targets = torch.randn(3, 40), torch.tensor([4, 5, 6])
    smoothed = scored_cross_entropy(logits, targets, label_smoothing=0.1).loss
    expected = 0.9 * F.cross_entropy(logits, targets) - 0.1 * logits.log_softmax(-1).mean()
    torch.testing.assert_close(smoothed, expected)
    with pytest.raises(ValueError, match="label_smoothing is a share"):
        validate_smoothing(1.0)


def test_cap_is_per_utterance():
    caps = token_caps(torch.tensor([0.5, 3.0, 100.0]), tokens_per_second=7.0, max_tokens=446)
    assert caps == [12, 29, 446]
