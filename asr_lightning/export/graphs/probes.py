"""Compares files that a converter wrote with the model that they were made from, by what they compute from a sound.

Texts alone show little of a fault that a few clips do not touch: two tensors that were swapped, or the weights of
before the training. A sound that is the same everywhere goes through both.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from asr_lightning.runtime.contract import Samples

MOST = {False: 1e-3, True: 0.2}
"""Largest distance, relative to the length of what torch computes, of graphs with the weights as they were (False)
and with weights of 8 bits (True). Measured: 1e-6, and 0.05 for Moonshine tiny."""


def sound(seconds: float, sample_rate: int) -> Samples:
    """Return a chirp in noise, the same each time."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    noise = np.random.default_rng(0).normal(0, 0.02, len(time))
    wave = 0.2 * np.sin(2 * np.pi * (200 + 700 * time) * time) + noise
    return np.asarray(wave, np.float32)


def compare(path: Path, expected: np.ndarray, compute: Callable[[], np.ndarray], is_rounded: bool) -> list[str]:
    """Return what is wrong with the graph in ``path``, which gives ``compute()`` in the place of ``expected``.

    Args:
        path: File of the graph, for messages.
        expected: What torch computes.
        compute: Runs the graph; any error of it is a problem of the file.
        is_rounded: Whether the weights have 8 bits.
    """
    try:
        actual = np.asarray(compute())
    except Exception as error:  # a damaged file may make a runtime fail in any way
        return [f"{path.name} cannot be run: {str(error).splitlines()[0] if str(error) else type(error).__name__}"]
    if actual.shape != expected.shape:
        return [f"{path.name} gives {list(actual.shape)} numbers for a sound, the model gives {list(expected.shape)}"]
    distance = float(np.linalg.norm(actual - expected) / max(float(np.linalg.norm(expected)), 1e-12))
    if not distance <= MOST[is_rounded]:
        return [
            f"{path.name} computes something else from a sound than the model ({distance:.2g} of its length away, at "
            f"most {MOST[is_rounded]:g}): it has other weights, or weights in other places"
        ]
    return []


def same_json(expected: str, path: Path) -> bool:
    """Return whether ``path`` holds the JSON value ``expected``; a file that cannot be read does not."""
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")) == json.loads(expected))
    except (OSError, ValueError):
        return False
