"""Utterances -> raw audio and labels for a NeMo model, which computes its features itself.

Must never know the network: it travels to loader workers, and imports no NeMo there. Used by ``adapter.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from asr_lightning.adapters.shared.frames import name_infeasible, report_joint
from asr_lightning.adapters.shared.labels import UnknownCharacters, Vocabulary, check_texts, labels_of, padded_labels
from asr_lightning.types import SpeechBatch, Utterance


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
        targets, target_lengths = padded_labels((u.text for u in utterances), self.vocabulary)
        return SpeechBatch.of(
            utterances,
            inputs={
                "input_signal": pad_sequence(waves, batch_first=True),
                "input_signal_length": torch.tensor([len(wave) for wave in waves]),
            },
            targets=targets,
            target_lengths=target_lengths,
        )

    def check(self, texts: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Refuse characters that the vocabulary lacks; name texts that CTC cannot fit, and the joint's memory.

        Raises:
            ValueError: As for ``check_texts``.
        """
        check_texts(texts, self.vocabulary, self.unknown_characters)
        labels = {name: labels_of(text, self.vocabulary) for name, text in texts.items()}
        frames = {name: seconds[name] * self.frames_per_second for name in labels}
        if self.needs_frames:
            name_infeasible(labels, frames, self.frames_per_second)
        if self.joint_columns:
            report_joint(labels, frames, self.joint_columns)
