"""Finds recordings that are too short or too long. Counts seconds only; knows no file, no split and no model.

A clip is refused or used whole, never cut: a cut recording with a full transcript would teach a model to invent words.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from asr_lightning.scoring.text import name_some

log = logging.getLogger(__name__)

SHORT_SECONDS = 0.3  # one syllable; shorter clips are more often accidental presses of a button than words


def duration_problems(seconds: Mapping[str, float], min_seconds: float, max_seconds: float | None) -> list[str]:
    """Describe the clips that are too short, and those that are too long, and log those that are suspiciously short.

    Args:
        seconds: Length of each clip, by the name that the user knows.
        min_seconds: Shorter clips are refused.
        max_seconds: Longer clips are refused; None means no limit.

    Returns:
        At most two messages.
    """
    short = {name: value for name, value in seconds.items() if value < min_seconds}
    long = {name: value for name, value in seconds.items() if max_seconds is not None and value > max_seconds}
    doubtful = {name: value for name, value in seconds.items() if min_seconds <= value < SHORT_SECONDS}
    problems = []
    if short:
        problems.append(
            f"{len(short)} recordings are too short, under {min_seconds:g} s: {_listed(short)}. "
            "Record them again, or move them with their transcripts out of the folder."
        )
    if long:
        problems.append(
            f"{len(long)} recordings are too long, the model takes {max_seconds:g} s at most: {_listed(long)}. "
            "Nothing is cut off silently: split each at a pause into files with their own transcripts, or move them "
            "out of the folder."
        )
    if doubtful:
        log.warning("%d recordings are under %g s: %s", len(doubtful), SHORT_SECONDS, _listed(doubtful))
    return problems


def _listed(seconds: Mapping[str, float]) -> str:
    return name_some([f"{name} ({value:.2f} s)" for name, value in seconds.items()])
