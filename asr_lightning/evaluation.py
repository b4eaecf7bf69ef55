"""One pass of an adapter over a loader, outside or beside the trainer. Knows the contract and no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring import Transcript
from asr_lightning.types import SpeechBatch


class Evaluation(NamedTuple):
    """What a pass over a split found.

    Attributes:
        transcripts: In the order of the loader.
        loss: Mean loss over all terms of the split.
    """

    transcripts: tuple[Transcript, ...]
    loss: float


def pooled(parts: Sequence[Evaluation]) -> Evaluation:
    """All transcripts together; the loss is the mean over the parts, weighted by their clips."""
    transcripts = tuple(transcript for part in parts for transcript in part.transcripts)
    total = sum(part.loss * len(part.transcripts) for part in parts)
    return Evaluation(transcripts, parts[0].loss if len(parts) == 1 else total / max(len(transcripts), 1))


def transcribe_batch(adapter: ASRAdapter, batch: SpeechBatch) -> list[Transcript]:
    """The adapter's text for each utterance of ``batch``, beside its reference."""
    hypotheses = adapter.transcribe(batch)
    return [Transcript(*row) for row in zip(batch.uids, batch.texts, hypotheses, strict=True)]


def transcribe_all(
    adapter: ASRAdapter, batches: Iterable[SpeechBatch], device: torch.device | str = "cpu"
) -> Iterator[Transcript]:
    """Transcripts of all ``batches``, in their order, with the model in evaluation mode."""
    with adapter.evaluating():
        for batch in batches:
            yield from transcribe_batch(adapter, batch.to(device))


@torch.no_grad()
def evaluate(adapter: ASRAdapter, batches: Iterable[SpeechBatch], device: torch.device | str = "cpu") -> Evaluation:
    """Transcripts and mean loss of ``batches``, with the model in evaluation mode."""
    transcripts: list[Transcript] = []
    total, weight = 0.0, 0
    with adapter.evaluating():
        for batch in batches:
            moved = batch.to(device)
            output = adapter.loss(moved)  # before the text, which it may share work with
            total, weight = total + output.loss.item() * output.weight, weight + output.weight
            transcripts += transcribe_batch(adapter, moved)
    return Evaluation(tuple(transcripts), total / max(weight, 1))
