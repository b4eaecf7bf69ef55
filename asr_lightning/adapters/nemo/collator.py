"""The collator of NeMo models: raw audio, of which the model makes features itself, and labels.

It is sent to loader workers, so it holds no network and imports no NeMo. Used by ``adapter.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from asr_lightning.adapters.shared.frames import report_joint, warn_of_short_clips
from asr_lightning.adapters.shared.labels import UnknownCharacters, Vocabulary, labels_of, padded_labels, validate_texts
from asr_lightning.types import SpeechBatch, Utterance


@dataclass(frozen=True)
class NeMoCollator:
    """Pads audio and labels.

    Attributes:
        vocabulary: Vocabulary of the checkpoint, which is never changed.
        unknown_characters: Whether ``check`` refuses characters outside the vocabulary; batches leave them out.
        frames_per_second: Frame rate of the encoder's output, 12.5 for a FastConformer.
        needs_frames: Whether a text needs a frame for each of its labels, as CTC does.
        joint_columns: Number of outputs of a transducer's joint at each frame and label; 0 without a joint.
    """

    vocabulary: Vocabulary
    unknown_characters: UnknownCharacters
    frames_per_second: float
    needs_frames: bool
    joint_columns: int

    def __call__(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """Batch ``utterances`` in their order: ``input_signal`` float32 ``[B, T]`` padded with silence, and labels."""
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
        """Refuse characters that the vocabulary lacks; log texts that are too long for CTC, and the joint's memory.

        Raises:
            ValueError: Characters are refused, or nothing would be left of some text.
        """
        validate_texts(texts, self.vocabulary, self.unknown_characters)
        labels = {name: labels_of(text, self.vocabulary) for name, text in texts.items()}
        frames = {name: seconds[name] * self.frames_per_second for name in labels}
        if self.needs_frames:
            warn_of_short_clips(labels, frames, self.frames_per_second)
        if self.joint_columns:
            report_joint(labels, frames, self.joint_columns)
