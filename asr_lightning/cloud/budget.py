"""Estimates the time and the cost of a training before a machine is rented, and sets its ceilings.

The estimate counts arithmetic operations: six for each weight and audio frame of a training pass, and extra passes for
the validations. How much of its peak speed a GPU reaches is a guess until it has been measured on one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from asr_lightning.cloud.provider import LOCAL_DEVICES

FRAMES_PER_S = 50  # frames of the encoder; families that subsample have fewer and are cheaper
OPERATIONS = 6  # for each weight and frame: 2 forward, 4 backward
VALIDATION_PASSES_PER_EPOCH = 0.5
FIXED_PASSES = 6.0
"""Scoring of the untouched model, the choice of weights, test and canary, counted in passes over all clips."""
SPEED = {
    "cpu": 0.3, "mps": 1.0, "cuda": 5.0, "T4": 3.0, "L4": 5.0, "A10": 6.0, "A10G": 6.0, "RTX4090": 12.0, "L40S": 12.0,
    "A100": 15.0, "H100": 30.0, "H200": 30.0, "B200": 45.0,
}  # fmt: skip
"""Tera-operations a second that a training on short clips sustains. The value of ``cpu`` was measured on one core with
whisper-tiny.en; the others are guesses, for GPUs about 5 % of their bf16 peak."""
STARTUP_S = 150.0  # of a rented machine: image, model, first batch
STARTUP_HERE_S = 20.0
MARGIN = 1.5
DEFAULT_MAX_S = 3600.0
UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Estimate:
    """The expected time and cost of a training.

    Attributes:
        seconds: Time on the machine.
        cost: Cost in USD.
        basis: The figures that the estimate rests on, in one line.
    """

    seconds: float
    cost: float
    basis: str


def estimate(clips: int, audio_s: float, epochs: int, parameters_m: float, gpu: str, price: float) -> Estimate:
    """Estimate the time and the cost of a training.

    Args:
        clips: Number of clips.
        audio_s: Length of all clips together, in seconds.
        epochs: Number of epochs.
        parameters_m: Number of the model's weights, in millions.
        gpu: Name of the GPU. A part after a dash, a colon or an exclamation mark is ignored, and a GPU that ``SPEED``
            does not have counts as an L4.
        price: Price of the machine in USD an hour.
    """
    kind = re.split("[-:!]", gpu)[0]
    speed = SPEED.get(kind, SPEED["L4"])
    passes = epochs * (1 + VALIDATION_PASSES_PER_EPOCH) + FIXED_PASSES
    operations = passes * audio_s * FRAMES_PER_S * OPERATIONS * parameters_m * 1e6
    startup = STARTUP_HERE_S if gpu in LOCAL_DEVICES else STARTUP_S
    seconds = MARGIN * (startup + operations / (speed * 1e12))
    basis = (
        f"{clips} clips of {audio_s / max(clips, 1):.1f} s, {epochs} epochs, {parameters_m:g} million weights, "
        f"{speed:g} Tera-operations a second on {gpu}{'' if kind in SPEED else ' (not known, taken for an L4)'}, "
        f"{startup:.0f} s to start, and half as much again"
    )
    return Estimate(seconds, price * seconds / 3600, basis)


def ceiling(price: float, max_cost: float | None, max_seconds: float | None) -> float:
    """Seconds after which the training is stopped: the smaller of the time limit and the time that the money buys.

    Args:
        price: Price of the machine in USD an hour.
        max_cost: Most that the training may cost, in USD.
        max_seconds: Most that it may take. If neither limit applies, it may take an hour.

    Raises:
        ValueError: ``max_cost`` is not above 0.
    """
    if max_cost is not None and not max_cost > 0:
        raise ValueError(f"--max_cost must be above 0, not {max_cost:g}")
    limits = [] if max_seconds is None else [max_seconds]
    if max_cost is not None and price > 0:
        limits.append(max_cost / price * 3600)
    return min(limits or [DEFAULT_MAX_S])


def require_affordable(expected: Estimate, limit_s: float, max_cost: float | None, price: float) -> None:
    """Refuse a training that is not expected to fit into its ceilings.

    Raises:
        ValueError: The estimate is above a ceiling; the message has the figures and the remedy.
    """
    if max_cost is not None and expected.cost > max_cost:
        raise ValueError(
            f"this will cost about ${expected.cost:.2f} ({expected.basis}), more than --max_cost {max_cost:g}: allow "
            "more, or take fewer epochs, a smaller model or a cheaper GPU"
        )
    if expected.seconds > limit_s:
        raise ValueError(
            f"this will take about {duration_text(expected.seconds)} ({expected.basis}), more than its ceiling of "
            f"{duration_text(limit_s)}: give --max_time {math.ceil(expected.seconds / 60)}m or more"
            + (f" (${price * expected.seconds / 3600:.2f})" if price else "")
        )


def parse_duration(text: str) -> float:
    """The seconds that a text such as "90s", "30m", "1.5h" or "90" stands for.

    Raises:
        ValueError: The text is not a duration, or not above 0.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match or not float(match[1]) > 0:
        raise ValueError(f"{text!r} is no time: write 90s, 30m or 1.5h")
    return float(match[1]) * UNITS[match[2] or "s"]


def duration_text(seconds: float) -> str:
    """A duration for people, in seconds or minutes."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
