"""The settings in ``export.json`` against the rules by which the model was trained."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import WhisperFeatureExtractor

from asr_lightning.adapters.shared.seq2seq import token_caps
from asr_lightning.adapters.whisper.features import LogMel
from asr_lightning.runtime.whisper.settings import WhisperSettings

SETTINGS = WhisperSettings(
    true_length=True,
    margin_seconds=0.64,
    max_tokens_per_second=7.0,
    language="de",
    task="transcribe",
    prompt=(50258, 50261, 50359, 50363),
    eos=50257,
    suppress=(1, 2, 7),
    begin_suppress=(220, 50257),
    timestamp_begin=50364,
    num_mels=80,
    max_positions=448,
    alignment_heads=((1, 0), (3, 2)),
)
LENGTHS = (1, 160, 161, 1600, 2559, 2560, 2561, 16_000, 53_123, 469_760, 469_761, 479_999, 480_000)
"""In samples: around a hop, a bucket and the window."""


def test_the_settings_come_back_from_their_file() -> None:
    text = json.dumps(SETTINGS.as_json() | {"of the runtime": 1})
    assert WhisperSettings.from_json(json.loads(text)) == SETTINGS


def test_a_setting_that_is_missing_is_named() -> None:
    content = SETTINGS.as_json()
    del content["eos"]
    with pytest.raises(KeyError, match="eos"):
        WhisperSettings.from_json(content)


@pytest.mark.parametrize("margin", [0.0, 0.64, 3.0])
@pytest.mark.parametrize("num_samples", LENGTHS)
def test_the_context_is_that_of_training(num_samples: int, margin: float) -> None:
    settings = replace(SETTINGS, margin_seconds=margin)
    frames = settings.num_frames(num_samples)
    assert frames == LogMel(WhisperFeatureExtractor(), margin).num_frames(num_samples)
    assert frames % 2 == 0 and frames <= 3000
    assert settings.num_frames(num_samples, native=True) == 3000
    assert replace(settings, true_length=False).num_frames(num_samples) == 3000


@pytest.mark.parametrize("rate", [7.0, 30.0])
@pytest.mark.parametrize("num_samples", LENGTHS)
def test_the_cap_is_that_of_training(num_samples: int, rate: float) -> None:
    seconds = torch.tensor([num_samples / 16_000])
    room = SETTINGS.max_positions - len(SETTINGS.prompt)
    assert replace(SETTINGS, max_tokens_per_second=rate).max_tokens(num_samples) == token_caps(seconds, rate, room)[0]
