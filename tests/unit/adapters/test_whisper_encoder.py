"""The encoder at true length against Hugging Face's own, whole and with fewer positions."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from asr_lightning.adapters.whisper.encoder import encode


def make_encoder(**options) -> WhisperEncoder:
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
    return WhisperEncoder(WhisperConfig(init_std=0.3, **sizes, **options)).eval()


@torch.no_grad()
def test_short_forward_equals_hf_at_3000():
    encoder = make_encoder()
    features = torch.randn(2, 80, 3000)
    expected = encoder(features).last_hidden_state
    torch.testing.assert_close(encode(encoder, features), expected, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("num_frames", [2, 130, 400])
def test_short_forward_equals_hf_with_fewer_positions(num_frames: int):
    """Independent reference: upstream's own encoder, built with as many positions as the audio has."""
    encoder = make_encoder()
    reference = make_encoder(max_source_positions=num_frames // 2)
    weights = copy.deepcopy(encoder.state_dict())
    weights["embed_positions.weight"] = weights["embed_positions.weight"][: num_frames // 2]
    reference.load_state_dict(weights)
    features = torch.randn(3, 80, num_frames)
    hidden = encode(encoder, features)
    assert hidden.shape == (3, num_frames // 2, 32)
    torch.testing.assert_close(hidden, reference(features).last_hidden_state, atol=1e-5, rtol=0)


def test_dropout_and_layerdrop_follow_upstream():
    encoder = make_encoder(dropout=0.2, encoder_layerdrop=0.5).train()
    features = torch.randn(2, 80, 3000)
    for seed in range(4):
        torch.manual_seed(seed)
        expected = encoder(features).last_hidden_state
        torch.manual_seed(seed)
        torch.testing.assert_close(encode(encoder, features), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("num_frames", [0, 1, 399, 3001, 3002])
def test_odd_and_long_inputs_are_refused(num_frames: int):
    with pytest.raises(ValueError, match=f"even number of frames up to 3000, not {num_frames}: pad"):
        encode(make_encoder(), torch.randn(1, 80, num_frames))


def test_positions_get_no_gradient_even_if_asked():
    encoder = make_encoder().requires_grad_(True)
    encode(encoder, torch.randn(1, 80, 40)).sum().backward()
    assert encoder.embed_positions.weight.grad is None
    assert encoder.conv1.weight.grad is not None
