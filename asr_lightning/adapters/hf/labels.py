"""What Hugging Face's CTC models and transducers share: labels by their tokenizer, features by their extractor.

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

from asr_lightning.adapters.shared.frames import name_infeasible, report_joint
from asr_lightning.adapters.shared.labels import UnknownCharacters, check_texts, labels_of, padded_labels
from asr_lightning.types import SpeechBatch, Utterance


class TokenizerVocabulary:
    """The labels of a Hugging Face tokenizer, of characters or of BPE pieces, special tokens left out.

    Args:
        tokenizer: Of the checkpoint.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, bool] = {}

    def encode(self, text: str) -> list[int]:
        """Label ids of ``text``."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def knows(self, char: str) -> bool:
        """Whether ``char`` is written without the unknown token and is there when it is read again."""
        if char not in self._known:
            ids = self.encode(char)
            written = bool(ids) and self.tokenizer.unk_token_id not in ids and bool(self.decode(ids).strip())
            self._known[char] = written or char == " "
        return self._known[char]

    def characters(self) -> set[str]:
        """Characters of all tokens but the special ones."""
        special = set(self.tokenizer.all_special_tokens)
        return {char for token in self.tokenizer.get_vocab() if token not in special for char in token}

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ``ids``, in which nothing is collapsed any more: two equal labels are a doubled letter."""
        return str(self.tokenizer.decode(ids, group_tokens=False, skip_special_tokens=True))


class FrameRate(NamedTuple):
    """Frames of the encoder's output for a clip: ``per_second * seconds + offset``, rounded down."""

    per_second: float
    offset: float

    @classmethod
    def of(cls, extractor: Any, output_lengths: Callable[[Tensor], Tensor]) -> FrameRate:
        """Measured on 10 and 20 s of silence.

        Args:
            extractor: The checkpoint's audio settings.
            output_lengths: The model's own function from lengths of its input to lengths of its output.
        """
        waves = [np.zeros(seconds * extractor.sampling_rate, dtype=np.float32) for seconds in (10, 20)]
        ten, twenty = output_lengths(extract(extractor, waves)["attention_mask"].sum(-1)).tolist()
        return cls((twenty - ten) / 10, 2 * ten - twenty)

    def frames(self, seconds: float) -> float:
        """Frames of a clip."""
        return float(int(self.per_second * seconds + self.offset + 1e-6))


@dataclass(frozen=True)
class LabelCollator:
    """Features and labels.

    Attributes:
        extractor: The checkpoint's audio settings.
        vocabulary: Of the checkpoint, which is never changed.
        unknown_characters: What ``check`` does about characters outside it; batches leave them out.
        rate: Of the encoder's output.
        joint_columns: Outputs of a transducer's joint at each frame and label; 0 for CTC.
    """

    extractor: Any
    vocabulary: TokenizerVocabulary
    unknown_characters: UnknownCharacters
    rate: FrameRate
    joint_columns: int = 0

    def __call__(self, utterances: Sequence[Utterance]) -> SpeechBatch:
        """``input_values`` ``[B, T]`` or ``input_features`` ``[B, F, M]``, ``attention_mask``, labels ``[B, U]``.

        For Parakeet ``waveforms`` ``[B, T]`` and ``num_samples`` ``[B]``: the adapter makes features of them.
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
        """Refuse characters that the vocabulary lacks; name texts that CTC cannot fit, or the joint's memory.

        Raises:
            ValueError: As for ``check_texts``.
        """
        check_texts(texts, self.vocabulary, self.unknown_characters)
        labels = {name: labels_of(text, self.vocabulary) for name, text in texts.items()}
        frames = {name: self.rate.frames(seconds[name]) for name in labels}
        if self.joint_columns:
            report_joint(labels, frames, self.joint_columns)
        else:
            name_infeasible(labels, frames, self.rate.per_second)


def extract(extractor: Any, waveforms: Sequence[Any]) -> Mapping[str, Any]:
    """Features of ``waveforms``, padded to the longest, with the mask that tells their true lengths."""
    features: Mapping[str, Any] = extractor(
        list(waveforms),
        sampling_rate=extractor.sampling_rate,
        padding="longest",
        return_attention_mask=True,
        return_tensors="pt",
    )
    return features
