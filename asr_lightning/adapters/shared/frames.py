"""What the labels of a clip ask of its frames: CTC needs a frame for each, a joint memory for each pair.

Must never know audio or a network. Used by the collators of CTC models and transducers.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from itertools import pairwise

from asr_lightning.scoring.text import name_some

logger = logging.getLogger(__name__)


def name_infeasible(labels: Mapping[str, Sequence[int]], frames: Mapping[str, float], frames_per_second: float) -> None:
    """Warn of recordings that are too short for their text: CTC writes at most one label a frame (pitfall T39).

    Args:
        labels: By the name that the user knows the recording by.
        frames: Of the encoder's output, by the same names.
        frames_per_second: For the message.
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
    """Log the memory that a transducer's joint takes (pitfall T48)."""
    logger.info(
        "the joint takes up to %.2f GB for a batch of 16: where memory runs out, halve data.batch_size and "
        "double trainer.accumulate_grad_batches", joint_gigabytes(labels, frames, columns),
    )  # fmt: skip


def joint_gigabytes(labels: Mapping[str, Sequence[int]], frames: Mapping[str, float], columns: int) -> float:
    """Memory of the joint of the 16 largest utterances, with its gradient: ``[B, F', U + 1, V]`` in float32, twice."""
    longest_clips = sorted(frames.values(), reverse=True)[:16]
    longest_text = max((len(ids) for ids in labels.values()), default=0)
    return 2 * 4 * len(longest_clips) * max(longest_clips, default=0.0) * (longest_text + 1) * columns / 1e9


def _repeats(labels: Sequence[int]) -> int:
    return sum(left == right for left, right in pairwise(labels))
