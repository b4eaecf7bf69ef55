"""The collator of Hugging Face's CTC models and transducers: labels by their tokenizer, features by their extractor.

Holds no network; picklable. Used by ``hf_ctc.py`` and ``hf_transducer.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import ParakeetFeatureExtractor

from asr_lightning.adapters.shared.frames import report_joint, warn_of_short_clips
from asr_lightning.adapters.shared.labels import UnknownCharacters, labels_of, padded_labels, validate_texts
from asr_lightning.types import SpeechBatch, Utterance


class TokenizerVocabulary:
    """The labels of a Hugging Face tokenizer, which are characters or BPE pieces, without the special tokens.

    Args:
        tokenizer: Tokenizer of the checkpoint.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, bool] = {}

    def encode(self, text: str) -> list[int]:
        """Return the label ids of ``text``."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def knows(self, char: str) -> bool:
        """Return whether ``char`` is encoded without the unknown token and comes back when it is decoded."""
        if char not in self._known:
            ids = self.encode(char)
            is_written = bool(ids) and self.tokenizer.unk_token_id not in ids and bool(self.decode(ids).strip())
            self._known[char] = is_written or char == " "
        return self._known[char]

    def characters(self) -> set[str]:
        """Return the characters of all tokens but the special ones."""
        special = set(self.tokenizer.all_special_tokens)
        return {char for token in self.tokenizer.get_vocab() if token not in special for char in token}

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids``, whose repeats are already merged: two equal labels are a doubled letter."""
        return str(self.tokenizer.decode(ids, group_tokens=False, skip_special_tokens=True))


class FrameRate(NamedTuple):
    """Frames of the encoder's output for a clip: ``per_second * seconds + offset``, rounded down."""

    per_second: float
    offset: float

    @classmethod
    def measured(cls, extractor: Any, output_lengths: Callable[[Tensor], Tensor]) -> FrameRate:
        """Measure the rate on 10 and 20 s of silence.

        Args:
            extractor: The checkpoint's feature extractor.
            output_lengths: The model's own function from lengths of its input to lengths of its output.
        """
        waves = [np.zeros(seconds * extractor.sampling_rate, dtype=np.float32) for seconds in (10, 20)]
        ten, twenty = output_lengths(extract(extractor, waves)["attention_mask"].sum(-1)).tolist()
        return cls((twenty - ten) / 10, 2 * ten - twenty)

    def frames(self, seconds: float) -> float:
        """Return the number of frames of a clip."""
        return float(int(self.per_second * seconds + self.offset + 1e-6))


@dataclass(frozen=True)
class LabelCollator:
    """Makes features and labels.

    Attributes:
        extractor: The checkpoint's feature extractor.
        vocabulary: Vocabulary of the checkpoint, which is never changed.
        unknown_characters: Whether ``check`` refuses characters outside the vocabulary; batches leave them out.
        rate: Frame rate of the encoder's output.
        joint_columns: Number of outputs of a transducer's joint at each frame and label; 0 for CTC.
    """

    extractor: Any
    vocabulary: TokenizerVocabulary
    unknown_characters: UnknownCharacters
    rate: FrameRate
    joint_columns: int = 0

    def __call__(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """Batch ``utterances`` in their order, with labels ``[B, U]``.

        The inputs are ``input_values`` ``[B, T]`` or ``input_features`` ``[B, F, M]``, and ``attention_mask``; for
        Parakeet, whose features the adapter makes, ``waveforms`` ``[B, T]`` and ``num_samples`` ``[B]``.
        """
        waveforms = [u.waveform for u in utterances]
        if isinstance(self.extractor, ParakeetFeatureExtractor):
            num_samples = torch.tensor([len(waveform) for waveform in waveforms])
            inputs = {"waveforms": pad_sequence(waveforms, batch_first=True), "num_samples": num_samples}
            lengths = num_samples // self.extractor.hop_length
        else:
            audio = extract(self.extractor, [waveform.numpy() for waveform in waveforms])
            inputs = {**audio, "attention_mask": audio["attention_mask"].long()}
            lengths = inputs["attention_mask"].sum(-1)
        targets, target_lengths = padded_labels((u.text for u in utterances), self.vocabulary)
        return SpeechBatch.of(utterances, inputs, targets, target_lengths, lengths)

    def check(self, texts: Mapping[str, str], seconds: Mapping[str, float]) -> None:
        """Refuse characters that the vocabulary lacks; log texts that are too long for CTC, or the joint's memory.

        Raises:
            ValueError: Characters are refused, or nothing would be left of some text.
        """
        validate_texts(texts, self.vocabulary, self.unknown_characters)
        labels = {name: labels_of(text, self.vocabulary) for name, text in texts.items()}
        frames = {name: self.rate.frames(seconds[name]) for name in labels}
        if self.joint_columns:
            report_joint(labels, frames, self.joint_columns)
        else:
            warn_of_short_clips(labels, frames, self.rate.per_second)


def extract(extractor: Any, waveforms: Sequence[np.ndarray]) -> Mapping[str, Tensor]:
    """Return the features of ``waveforms``, padded to the longest, with the mask of their true lengths."""
    features: Mapping[str, Tensor] = extractor(
        list(waveforms),
        sampling_rate=extractor.sampling_rate,
        padding="longest",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return features
