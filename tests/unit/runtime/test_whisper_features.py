"""Log-mel features in numpy against those of transformers, and against those that the model is trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from asr_lightning.adapters.whisper.features import LogMel
from asr_lightning.runtime.whisper.features import log_mel, mel_filters
from tests.tiny_models import clip

TOLERANCE = 5e-5
"""transformers computes the spectrum in float32 in torch, numpy in float64; features lie between -1.5 and 1.5."""
WINDOW = 3000
LENGTHS = (0.02, 0.1, 0.5, 1.005, 3.337, 15.0, 29.97, 29.9999, 30.0)
"""In seconds; some are no whole number of hops, and the last ones are shorter than the window by less than its echo."""


def samples(kind: str, seconds: float) -> np.ndarray:
    recording = clip(seconds, seed=3).waveform.numpy()
    scale = {"chirp": 1.0, "faint": 1e-5, "silence": 0.0}
    return np.sign(recording) if kind == "loud" else recording * np.float32(scale[kind])


@pytest.mark.parametrize("num_mels", [80, 128])
@pytest.mark.parametrize("seconds", LENGTHS)
def test_the_window_equals_transformers(seconds: float, num_mels: int) -> None:
    audio = samples("chirp", seconds)
    expected = WhisperFeatureExtractor(feature_size=num_mels)(audio, sampling_rate=16_000).input_features[0]
    features = log_mel(audio, WINDOW, num_mels)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["silence", "loud", "faint"])
def test_extreme_levels_equal_transformers(kind: str) -> None:
    audio = samples(kind, 1.3)
    expected = WhisperFeatureExtractor()(audio, sampling_rate=16_000).input_features[0]
    np.testing.assert_allclose(log_mel(audio, WINDOW, 80), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("margin", [0.0, 0.64, 3.0])
@pytest.mark.parametrize("seconds", LENGTHS)
def test_true_length_equals_training(seconds: float, margin: float) -> None:
    """Without a margin, too: then the audio reaches to the last frame, and the window must not hear its reflection."""
    training = LogMel(WhisperFeatureExtractor(), margin)
    audio = samples("chirp", seconds)
    expected = training(torch.from_numpy(audio)[None])[0].numpy()
    np.testing.assert_allclose(log_mel(audio, expected.shape[1], 80), expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_the_filters_are_slaneys(num_mels: int) -> None:
    expected = mel_filter_bank(201, num_mels, 0.0, 8000.0, 16_000, norm="slaney", mel_scale="slaney")
    np.testing.assert_allclose(mel_filters(num_mels), expected.T, atol=1e-7, rtol=0)


def test_the_audio_is_left_as_it_is() -> None:
    audio = samples("chirp", 0.3)
    before = audio.copy()
    log_mel(audio, 64, 80)
    assert np.array_equal(audio, before)
