"""Limits that the number of frames sets: CTC needs a frame for each label, and a joint network memory for each pair.

Knows no audio and no network. Used by the collators of CTC models and transducers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise

from asr_lightning.scoring.text import name_some

logger = logging.getLogger(__name__)


def warn_of_short_clips(
    labels: Mapping[str, Sequence[int]], frames: Mapping[str, float], frames_per_second: float
) -> None:
    """Warn of recordings that are too short for their text: CTC writes at most one label a frame.

    Args:
        labels: Labels of each recording, by the name that the user knows it by.
        frames: Number of frames that the encoder makes of each recording, by the same names.
        frames_per_second: Frame rate of the encoder, for the message.
    """
    short = [
        f"{name} ({len(ids)} labels in {frames[name] / frames_per_second:.2f} s)"
        for name, ids in labels.items()
        if len(ids) + _repeats(ids) > frames[name]
    ]
    if short:
        logger.warning(
            "%d recordings are too short for their text, at %g frames a second and at least one frame a label; "
            "a CTC head learns nothing from them: %s. Compare text and recording, or take a transducer",
            len(short), frames_per_second, name_some(short),
        )  # fmt: skip


def report_joint(labels: Mapping[str, Sequence[int]], frames: Mapping[str, float], columns: int) -> None:
    """Log the memory that the output of a transducer's joint network takes, which is what a GPU runs out of first."""
    logger.info(
        "the joint takes up to %.2f GB for a batch of 16: where memory runs out, halve --data.batch_size and "
        "double --trainer.accumulate_grad_batches", joint_gigabytes(labels, frames, columns),
    )  # fmt: skip


def joint_gigabytes(labels: Mapping[str, Sequence[int]], frames: Mapping[str, float], columns: int) -> float:
    """Memory of the joint's output ``[B, F', U + 1, V]`` in float32, and of its gradient, for 16 long utterances."""
    longest_clips = sorted(frames.values(), reverse=True)[:16]
    longest_text = max((len(ids) for ids in labels.values()), default=0)
    return 2 * 4 * len(longest_clips) * max(longest_clips, default=0.0) * (longest_text + 1) * columns / 1e9


def _repeats(labels: Sequence[int]) -> int:
    return sum(left == right for left, right in pairwise(labels))
