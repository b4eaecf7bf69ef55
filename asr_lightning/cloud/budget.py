"""How long it will take and what it will cost, before it is rented: an estimate, and two ceilings that hold.

The estimate counts arithmetic: six operations for each weight and frame in training, as many again in parts for the
checks before, between and after. How much of its peak a GPU reaches is a guess until it was measured on one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

FRAMES_PER_S = 50  # the encoder's, of every family but the subsampled ones, which are cheaper
OPERATIONS = 6  # for each weight and frame: forward 2, backward 4
CHECKS_PER_EPOCH = 0.5
CHECKS = 6.0
"""Passes over all clips that are worth one epoch each: untouched model, choice of weights, test, canary."""
SPEED = {
    "cpu": 0.3, "mps": 1.0, "cuda": 5.0, "T4": 3.0, "L4": 5.0, "A10": 6.0, "A10G": 6.0, "RTX4090": 12.0, "L40S": 12.0,
    "A100": 15.0, "H100": 30.0, "H200": 30.0, "B200": 45.0,
}  # fmt: skip
"""Tera-operations a second that a training of short clips sustains. Of a CPU as measured on one core with
whisper-tiny.en; of the others a guess: about 5 % of the bf16 peak of a GPU."""
STARTUP_S = 150.0  # of a rented machine: image, model, first batch
STARTUP_HERE_S = 20.0
MARGIN = 1.5
DEFAULT_MAX_S = 3600.0
UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Estimate:
    """What a training needs.

    Attributes:
        seconds: Time on the machine.
        cost: USD.
        basis: What it was computed from, in a line.
    """

    seconds: float
    cost: float
    basis: str


def estimate(clips: int, audio_s: float, epochs: int, parameters_m: float, gpu: str, price: float) -> Estimate:
    """The time and the cost of a training.

    Args:
        clips: Their number.
        audio_s: Seconds of all clips.
        epochs: Asked for.
        parameters_m: The model's weights, in millions.
        gpu: A key of ``SPEED``; another counts as an L4. What follows a dash or a colon is left out.
        price: USD an hour.
    """
    kind = re.split("[-:!]", gpu)[0]
    speed = SPEED.get(kind, SPEED["L4"])
    passes = epochs * (1 + CHECKS_PER_EPOCH) + CHECKS
    work = passes * audio_s * FRAMES_PER_S * OPERATIONS * parameters_m * 1e6
    startup = STARTUP_HERE_S if gpu in ("cpu", "mps", "cuda") else STARTUP_S
    seconds = MARGIN * (startup + work / (speed * 1e12))
    basis = (
        f"{clips} clips of {audio_s / max(clips, 1):.1f} s, {epochs} epochs, {parameters_m:g} million weights, "
        f"{speed:g} Tera-operations a second on {gpu}{'' if kind in SPEED else ' (not known, taken for an L4)'}, "
        f"{startup:.0f} s to start, and half as much again"
    )
    return Estimate(seconds, price * seconds / 3600, basis)


def ceiling(price: float, max_cost: float | None, max_seconds: float | None) -> float:
    """Seconds after which the training is stopped: the smaller of what time and money allow.

    Args:
        price: USD an hour.
        max_cost: USD.
        max_seconds: An hour where neither is given.

    Raises:
        ValueError: Nothing is left of it.
    """
    if max_cost is not None and not max_cost > 0:
        raise ValueError(f"--max_cost must be above 0, not {max_cost:g}")
    limits = [] if max_seconds is None else [max_seconds]
    if max_cost is not None and price > 0:
        limits.append(max_cost / price * 3600)
    return min(limits or [DEFAULT_MAX_S])


def check(found: Estimate, limit_s: float, max_cost: float | None, price: float) -> None:
    """Refuse what will not fit into its ceilings.

    Raises:
        ValueError: The estimate is over one; the message has the figures and the remedy.
    """
    if max_cost is not None and found.cost > max_cost:
        raise ValueError(
            f"this will cost about ${found.cost:.2f} ({found.basis}), more than --max_cost {max_cost:g}: allow more, "
            "or take fewer epochs, a smaller model or a cheaper GPU"
        )
    if found.seconds > limit_s:
        raise ValueError(
            f"this will take about {minutes(found.seconds)} ({found.basis}), more than the {minutes(limit_s)} that it "
            f"may: give --max_time {math.ceil(found.seconds / 60)}m or more"
            + (f" (${price * found.seconds / 3600:.2f})" if price else "")
        )


def seconds_of(text: str) -> float:
    """Seconds of "90s", "30m", "1.5h", or of a number of seconds.

    Raises:
        ValueError: It is none of them, or not above 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not found or not float(found[1]) > 0:
        raise ValueError(f"{text!r} is no time: write 90s, 30m or 1.5h")
    return float(found[1]) * UNITS[found[2] or "s"]


def minutes(seconds: float) -> str:
    """For people."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
