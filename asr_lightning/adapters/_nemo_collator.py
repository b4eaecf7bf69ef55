"""Utterances -> raw audio and labels for a NeMo model, which computes its features itself.

Must never know the network: it travels to loader workers, and imports no NeMo there. Used by ``nemo.py``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.nn.utils.rnn import pad_sequence

from asr_lightning.adapters._labels import UnknownCharacters, Vocabulary, check_texts, spell
from asr_lightning.text import name_some
from asr_lightning.types import SpeechBatch, Utterance

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NeMoCollator:
    """Pads audio and labels.

    Attributes:
        vocabulary: Of the checkpoint, which is never changed.
        unknown_characters: What ``check`` does about characters outside it; batches leave them out.
        frames_per_second: Of the encoder's output, 12.5 for a FastConformer.
        needs_frames: Whether a text needs a frame for each of its labels (CTC).
        joint_columns: Outputs of a transducer's joint at each frame and label; 0 without a joint.
    """

    vocabulary: Vocabulary
    unknown_characters: UnknownCharacters
    frames_per_second: float
    needs_frames: bool
    joint_columns: int

    def __call__(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """``input_signal`` float32 ``[B, T]`` padded with silence, labels padded with -100."""
        waves = [u.waveform for u in utterances]
        labels = [torch.tensor(self._labels(u.text), dtype=torch.int64) for u in utterances]
        return SpeechBatch(
            uids=tuple(u.uid for u in utterances),
            texts=tuple(u.text for u in utterances),
            seconds=torch.tensor([u.seconds for u in utterances]),
            inputs={
                "input_signal": pad_sequence(waves, batch_first=True),
                "input_signal_length": torch.tensor([len(wave) for wave in waves]),
            },
            targets=pad_sequence(labels, batch_first=True, padding_value=-100),
            target_lengths=torch.tensor([len(label) for label in labels]),
        )

    def check(self, texts: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Refuse characters that the vocabulary lacks; name texts that CTC cannot fit, and the joint's memory.

        Raises:
            ValueError: As for ``check_texts``.
        """
        check_texts(texts, self.vocabulary, self.unknown_characters)
        labels = {name: self._labels(text) for name, text in texts.items()}
        if self.needs_frames:
            self._name_infeasible(labels, seconds)
        if self.joint_columns:
            gigabytes = joint_gigabytes(labels, seconds, self.frames_per_second, self.joint_columns)
            logger.info(
                "the joint takes up to %.2f GB for a batch of 16: where memory runs out, halve data.batch_size and "
                "double trainer.accumulate_grad_batches", gigabytes,
            )  # fmt: skip

    def _labels(self, text: str) -> list[int]:
        return self.vocabulary.encode(spell(text, self.vocabulary).text)

    def _name_infeasible(self, labels: Mapping[str, list[int]], seconds: Mapping[str, float]) -> None:
        short = [
            f"{name} ({len(ids)} labels in {seconds[name]:.2f} s)"
            for name, ids in labels.items()
            if len(ids) + _repeats(ids) > seconds[name] * self.frames_per_second
        ]
        if short:
            logger.warning(
                "%d recordings are too short for their text, at %g frames a second and at least one frame a label; "
                "a CTC head learns nothing from them: %s. Compare text and recording, or take a transducer",
                len(short), self.frames_per_second, name_some(short),
            )  # fmt: skip


def joint_gigabytes(
    labels: Mapping[str, Sequence[int]], seconds: Mapping[str, float], frames_per_second: float, columns: int
) -> float:
    """Memory of the joint of the 16 largest utterances, with its gradient: ``[B, F', U + 1, V]`` in float32, twice."""
    frames = sorted((seconds[name] * frames_per_second for name in labels), reverse=True)[:16]
    longest = max((len(ids) for ids in labels.values()), default=0)
    return 2 * 4 * len(frames) * max(frames, default=0.0) * (longest + 1) * columns / 1e9


def _repeats(labels: Sequence[int]) -> int:
    return sum(left == right for left, right in pairwise(labels))
