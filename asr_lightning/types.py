"""The values that pass between data, adapters and the training loop, and the shape legend.

Shape legend: ``B`` utterances, ``T`` samples, ``F`` feature frames, ``M`` mel bins, ``U`` target tokens,
``V`` vocabulary, ``D`` width. Knows no model, no file and no trainer; imported by every other module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Utterance:
    """One recording with its transcript.

    Attributes:
        uid: Opaque name, unique in its folder; every message about this recording names it.
        waveform: float32 ``[T]``, mono, CPU, within [-1, 1].
        sample_rate: Hz.
        text: The reference exactly as the user wrote it; empty when there is none (``predict``).
        split_key: Speaker, day or prompt; equal keys never cross a split.
    """

    uid: str
    waveform: Tensor
    sample_rate: int
    text: str
    split_key: str | None = None

    @property
    def seconds(self) -> float:
        """Length of the recording in seconds."""
        return self.waveform.numel() / self.sample_rate


@dataclass(frozen=True)
class SpeechBatch:
    """What a collator makes of ``B`` utterances.

    Attributes:
        uids: ``B`` names, in the order of every other field.
        texts: ``B`` original references, untouched, for scoring.
        seconds: float32 ``[B]``, length of each recording without padding.
        inputs: The model's own keyword arguments; first dimension ``B``.
        targets: int64 ``[B, U]``; ``targets[b, u]`` is scored against the output at position ``u``,
            -100 where nothing is scored.
        target_lengths: int64 ``[B]``, positions up to and including the last scored one.
    """

    uids: tuple[str, ...]
    texts: tuple[str, ...]
    seconds: Tensor
    inputs: Mapping[str, Tensor]
    targets: Tensor
    target_lengths: Tensor

    @classmethod
    def of(
        cls, utterances: Sequence[Utterance], inputs: Mapping[str, Tensor], targets: Tensor, target_lengths: Tensor
    ) -> SpeechBatch:
        """A batch of ``utterances`` in their order, with what a collator has made of them."""
        return cls(
            uids=tuple(utterance.uid for utterance in utterances),
            texts=tuple(utterance.text for utterance in utterances),
            seconds=torch.tensor([utterance.seconds for utterance in utterances]),
            inputs=inputs,
            targets=targets,
            target_lengths=target_lengths,
        )

    def __len__(self) -> int:
        return len(self.uids)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SpeechBatch:
        """A copy on ``device``. Lightning refuses a frozen dataclass that lacks this method."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SpeechBatch:
        """A copy in page-locked memory, which a DataLoader asks for on CUDA."""
        return self._map(Tensor.pin_memory)

    def clone(self) -> SpeechBatch:
        """A copy that shares no memory; the conformance checks compare against it."""
        return self._map(Tensor.clone)

    def _map(self, function: Callable[[Tensor], Tensor]) -> SpeechBatch:
        return replace(
            self,
            seconds=function(self.seconds),
            inputs={name: function(tensor) for name, tensor in self.inputs.items()},
            targets=function(self.targets),
            target_lengths=function(self.target_lengths),
        )


@dataclass(frozen=True)
class LossOutput:
    """A mean loss and the number of terms it averages, so that batches can be weighted exactly.

    Attributes:
        loss: Scalar float32 with gradient.
        weight: Terms averaged: tokens for sequence-to-sequence, utterances for CTC and transducers.
        parts: Detached named scalars, such as ``rnnt`` and ``ctc`` of a hybrid.
    """

    loss: Tensor
    weight: int
    parts: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class AudioLimits:
    """What a checkpoint accepts.

    Attributes:
        sample_rate: Hz.
        min_seconds: Shorter recordings are refused.
        max_seconds: Longer recordings are refused, never truncated; None is unbounded.
        max_target_tokens: Prompt included; None is unbounded.
        padding_invariant: Whether a clip's result is independent of the clips it shares a batch with.
    """

    sample_rate: int
    min_seconds: float = 0.1
    max_seconds: float | None = None
    max_target_tokens: int | None = None
    padding_invariant: bool = True
