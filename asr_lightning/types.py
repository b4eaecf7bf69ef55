"""The values that pass between data, adapters and the training loop, and the shape legend.

Shape legend: ``B`` utterances, ``T`` samples, ``F`` feature frames, ``M`` mel bins, ``U`` target tokens,
``V`` vocabulary, ``D`` width, ``N`` scored positions. Knows no model, no file and no trainer; almost every other module
imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

IGNORED = -100
"""Target at positions that are not scored; the default of ``torch.nn.functional.cross_entropy``."""


@dataclass(frozen=True)
class Utterance:
    """One recording with its transcript.

    Attributes:
        uid: Name of the recording, unique in its folder; every message about the recording has it.
        waveform: Samples, float32 ``[T]``, mono, on the CPU, from -1 to 1.
        sample_rate: Sample rate in Hz.
        text: The reference exactly as the user wrote it; empty if there is none, as in ``predict``.
        split_key: Speaker, day or prompt; recordings with the same key are in the same split.
        is_duplicate: Whether another process trains on the same utterance in the same epoch, and counts it. Then this
            copy only keeps its process busy.
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
    """A batch of ``B`` utterances, as a collator makes it.

    Tensors that the host makes decisions by stay on the CPU, and ``scored`` is made there: reading from a GPU means
    waiting for it.

    Attributes:
        uids: Names of the utterances, in the order of every other field.
        texts: References exactly as the user wrote them, for scoring.
        seconds: Length of each recording without padding, float32 ``[B]``. Stays on the CPU.
        inputs: Inputs of the model by their names, each with the first dimension ``B``.
        input_lengths: Number of samples or frames of each recording in the padded input, int64 ``[B]``. Stays on the
            CPU.
        targets: Targets, int64 ``[B, U]``; ``targets[b, u]`` is scored against the output at position ``u``, and is
            -100 if nothing is scored there.
        target_lengths: Number of positions up to and including the last scored one, int64 ``[B]``. Stays on the CPU.
        scored: Positions in ``targets.flatten()`` that are scored, in order, int64 ``[N]``.
        is_duplicate: Whether another process has this batch too, and counts it.
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
        """Make a batch of ``utterances`` in their order from the tensors that a collator has made.

        If ``input_lengths`` is None, they are the numbers of samples.
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
        """The targets that are scored, int64 ``[N]``."""
        return self.targets.flatten().index_select(0, self.scored)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SpeechBatch:
        """Return a copy on ``device``. Lightning needs this method of a frozen dataclass."""
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        on_host = ("seconds", "input_lengths", "target_lengths")
        return replace(moved, **{name: getattr(self, name) for name in on_host})

    def pin_memory(self) -> SpeechBatch:
        """Return a copy in page-locked memory, which a DataLoader needs on CUDA."""
        return self._map(Tensor.pin_memory)

    def clone(self) -> SpeechBatch:
        """Return a copy that shares no memory; the conformance checks compare with it."""
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
    """A mean loss and the number of terms that it averages, so that batches can be weighted exactly.

    Attributes:
        loss: The mean loss, a float32 scalar with a gradient.
        weight: Number of terms: tokens for sequence-to-sequence models, utterances for CTC and transducers.
        parts: Parts of the loss by name, without gradients, such as ``rnnt`` and ``ctc`` of a hybrid.
    """

    loss: Tensor
    weight: int
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class EvaluationOutput(NamedTuple):
    """Loss and text of a batch from one pass.

    Attributes:
        loss: The result of ``ASRAdapter.loss``, without a gradient.
        texts: The result of ``ASRAdapter.transcribe``.
    """

    loss: LossOutput
    texts: list[str]


@dataclass(frozen=True)
class AudioLimits:
    """The recordings and texts that a checkpoint accepts.

    Attributes:
        sample_rate: Sample rate in Hz.
        min_seconds: Length of the shortest recording; shorter ones are refused.
        max_seconds: Length of the longest recording; longer ones are refused, never truncated. None is no limit.
        max_target_tokens: Number of target tokens, prompt included; None is no limit.
        padding_invariant: Whether the result for a clip is independent of the clips that share its batch.
    """

    sample_rate: int
    min_seconds: float = 0.1
    max_seconds: float | None = None
    max_target_tokens: int | None = None
    padding_invariant: bool = True
