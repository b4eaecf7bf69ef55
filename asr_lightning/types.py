"""The values that pass between data, adapters and the training loop, and the shape legend.

Shape legend: ``B`` utterances, ``T`` samples, ``F`` feature frames, ``M`` mel bins, ``U`` target tokens,
``V`` vocabulary, ``D`` width, ``N`` scored positions. Knows no model, no file and no trainer; imported by every other
module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -100
"""Target at positions that are not scored. Source: the default of ``torch.nn.functional.cross_entropy``."""


@dataclass(frozen=True)
class Utterance:
    """One recording with its transcript.

    Attributes:
        uid: Opaque name, unique in its folder; every message about this recording names it.
        waveform: float32 ``[T]``, mono, CPU, within [-1, 1].
        sample_rate: Hz.
        text: The reference exactly as the user wrote it; empty when there is none (``predict``).
        split_key: Speaker, day or prompt; equal keys never cross a split.
        is_duplicate: Another process trains on the same utterance in the same epoch, and counts it. This one only
            keeps its process busy.
    """

    uid: str
    waveform: Tensor
    sample_rate: int
    text: str
    split_key: str | None = None
    is_duplicate: bool = False

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
        seconds: float32 ``[B]``, length of each recording without padding. Stays on the CPU.
        inputs: What the model is fed, by name; first dimension ``B``.
        input_lengths: int64 ``[B]``, samples or frames of the padded input that are the recording's own. Stays on the
            CPU.
        targets: int64 ``[B, U]``; ``targets[b, u]`` is scored against the output at position ``u``,
            -100 where nothing is scored.
        target_lengths: int64 ``[B]``, positions up to and including the last scored one. Stays on the CPU.
        scored: int64 ``[N]``, places of what is scored in ``targets.flatten()``, in order.
        is_duplicate: Whether another process has this batch too, and counts it.

    What the host decides by stays on the CPU, and ``scored`` is made there: to ask a GPU is to wait for it.
    """

    uids: tuple[str, ...]
    texts: tuple[str, ...]
    seconds: Tensor
    inputs: Mapping[str, Tensor]
    input_lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    scored: Tensor
    is_duplicate: bool = False

    @classmethod
    def of(
        cls,
        utterances: Sequence[Utterance],
        inputs: Mapping[str, Tensor],
        targets: Tensor,
        target_lengths: Tensor,
        input_lengths: Tensor | None = None,
    ) -> SpeechBatch:
        """A batch of ``utterances`` in their order, with what a collator has made of them.

        ``input_lengths`` are the numbers of samples unless given.
        """
        samples = torch.tensor([utterance.waveform.numel() for utterance in utterances], dtype=torch.int64)
        return cls(
            uids=tuple(utterance.uid for utterance in utterances),
            texts=tuple(utterance.text for utterance in utterances),
            seconds=torch.tensor([utterance.seconds for utterance in utterances]),
            inputs=inputs,
            input_lengths=samples if input_lengths is None else input_lengths,
            targets=targets,
            target_lengths=target_lengths,
            scored=(targets.flatten() != IGNORED).nonzero()[:, 0],
            is_duplicate=all(utterance.is_duplicate for utterance in utterances),
        )

    def __len__(self) -> int:
        return len(self.uids)

    @property
    def scored_targets(self) -> Tensor:
        """int64 ``[N]``: the targets that are scored."""
        return self.targets.flatten().index_select(0, self.scored)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SpeechBatch:
        """A copy on ``device``. Lightning refuses a frozen dataclass that lacks this method."""
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        on_host = ("seconds", "input_lengths", "target_lengths")
        return replace(moved, **{name: getattr(self, name) for name in on_host})

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
            input_lengths=function(self.input_lengths),
            targets=function(self.targets),
            target_lengths=function(self.target_lengths),
            scored=function(self.scored),
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


class EvaluationOutput(NamedTuple):
    """What one pass over a batch says of it.

    Attributes:
        loss: As ``ASRAdapter.loss`` gives it, without gradient.
        texts: As ``ASRAdapter.transcribe`` gives them.
    """

    loss: LossOutput
    texts: list[str]


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
