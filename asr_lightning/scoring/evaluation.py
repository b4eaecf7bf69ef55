"""Runs an adapter over the batches of a loader, without a trainer. Knows the contract of adapters and no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring.edits import Transcript
from asr_lightning.scoring.known_texts import NOTHING_KNOWN, BatchResult, KnownTexts
from asr_lightning.types import SpeechBatch


class Evaluation(NamedTuple):
    """Result of a pass over a split.

    Attributes:
        transcripts: Transcripts in the order of the loader.
        loss: Mean loss over all terms of the split.
    """

    transcripts: tuple[Transcript, ...]
    loss: float


def pooled(parts: Sequence[Evaluation]) -> Evaluation:
    """Combine ``parts``: all transcripts, and the mean of the losses, weighted by numbers of clips."""
    transcripts = tuple(transcript for part in parts for transcript in part.transcripts)
    total = sum(part.loss * len(part.transcripts) for part in parts)
    return Evaluation(transcripts, parts[0].loss if len(parts) == 1 else total / max(len(transcripts), 1))


def transcripts_of(batch: SpeechBatch, texts: Sequence[str]) -> list[Transcript]:
    """Combine the references of ``batch`` with the ``texts`` that a model wrote for it."""
    return [Transcript(*row) for row in zip(batch.uids, batch.texts, texts, strict=True)]


def transcribe_all(
    adapter: ASRAdapter,
    batches: Iterable[SpeechBatch],
    device: torch.device | str = "cpu",
    known: KnownTexts = NOTHING_KNOWN,
) -> Iterator[Transcript]:
    """Transcribe ``batches`` in order, with the model in evaluation mode.

    Args:
        adapter: The model.
        batches: Batches of the adapter's collator.
        device: Where the model is.
        known: Texts that the model has written before; only for a model that has not been trained.
    """

    def transcribe(batch: SpeechBatch) -> BatchResult:
        return BatchResult(adapter.transcribe(batch.to(device)))

    with adapter.evaluating():
        for batch in batches:
            yield from transcripts_of(batch, known.get("text", batch, transcribe).texts)


@torch.no_grad()
def evaluate(
    adapter: ASRAdapter,
    batches: Iterable[SpeechBatch],
    device: torch.device | str = "cpu",
    known: KnownTexts = NOTHING_KNOWN,
) -> Evaluation:
    """Compute transcripts and mean loss of ``batches``, with the model in evaluation mode.

    Args:
        adapter: The model.
        batches: Batches of the adapter's collator.
        device: Where the model is.
        known: Texts and losses that the model has computed before; only for a model that has not been trained.
    """

    def compute(batch: SpeechBatch) -> BatchResult:
        output, texts = adapter.evaluate(batch.to(device))
        return BatchResult(texts, output.loss.item(), output.weight)

    transcripts: list[Transcript] = []
    total, weight = 0.0, 0
    with adapter.evaluating():
        for batch in batches:
            result = known.get("loss and text", batch, compute)
            total, weight = total + result.loss * result.weight, weight + result.weight
            transcripts += transcripts_of(batch, result.texts)
    return Evaluation(tuple(transcripts), total / max(weight, 1))
