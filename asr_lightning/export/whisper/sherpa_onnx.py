"""Whisper for sherpa-onnx: the graphs of ``onnx_whisper.py``, and how much silence it needs around the audio.

Apps give ``tail_paddings`` to the recogniser, and put the other silence around the samples themselves. Of 49 test clips
of the demo in float32, sherpa-onnx 2.0.1 reads 48 as torch does with it, and 41 without the silence before the audio.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from asr_lightning.export.graphs import checks as onnx_checks
from asr_lightning.export.whisper import onnx as onnx_whisper
from asr_lightning.runtime.whisper.settings import (
    CAP_BASE_TOKENS,
    HOP,
    SAMPLE_RATE,
    WINDOW_SECONDS,
    WhisperSettings,
)

LEADING_SAMPLES = HOP // 2
"""Its frames are centred half a hop later than Whisper's, as Kaldi's are: this moves them back."""
TRAILING_SAMPLES = math.ceil(CAP_BASE_TOKENS / 6 * SAMPLE_RATE / HOP) * HOP
"""It cuts a text off after 6 tokens for each second of samples, so that a short word would lose its end."""
LEAST_TAIL = 64
"""Frames, for apps that know of ``tail_paddings`` alone. 0 would stand for 1000."""


def convert(source: Path, target: Path, variant: str) -> Mapping[str, object]:
    """Write graphs, tokenizer and tokens to ``target``; ``variant`` is ``int8`` or ``fp32``."""
    settings = onnx_whisper.convert(source, target, variant)
    return {**settings, **silence(WhisperSettings.from_json(settings))}


def problems(source: Path, target: Path, settings: Mapping[str, object]) -> list[str]:
    """Say what is wrong with the files in ``target``."""
    try:
        wanted = silence(WhisperSettings.from_json(settings))
    except (KeyError, TypeError, ValueError):
        wanted = {}  # the settings are incomplete, which onnx_whisper reports
    return [*onnx_checks.settings_problems(settings, wanted), *onnx_whisper.problems(source, target, settings)]


def silence(settings: WhisperSettings) -> dict[str, int]:
    """Return the silence around the audio: samples before and after it, and frames that sherpa-onnx adds.

    Together they are the margin of training at least, or the 30 s window, beyond which sherpa-onnx cuts them off.
    """
    margin = settings.margin_seconds if settings.true_length else WINDOW_SECONDS
    frames = round(margin * SAMPLE_RATE / HOP) - TRAILING_SAMPLES // HOP
    return {
        "leading_samples": LEADING_SAMPLES,
        "trailing_samples": TRAILING_SAMPLES,
        "tail_paddings": max(frames, LEAST_TAIL),
    }
