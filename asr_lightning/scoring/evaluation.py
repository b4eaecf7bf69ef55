"""One pass of an adapter over a loader, outside or beside the trainer. Knows the contract and no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import torch

from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring.edits import Transcript
from asr_lightning.scoring.known_texts import NOTHING_KNOWN, Known, KnownTexts
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


def transcripts_of(batch: SpeechBatch, texts: Sequence[str]) -> list[Transcript]:
    """What a model wrote for each utterance of ``batch``, beside its reference."""
    return [Transcript(*row) for row in zip(batch.uids, batch.texts, texts, strict=True)]


def transcribe_all(
    adapter: ASRAdapter,
    batches: Iterable[SpeechBatch],
    device: torch.device | str = "cpu",
    known: KnownTexts = NOTHING_KNOWN,
) -> Iterator[Transcript]:
    """Transcripts of all ``batches``, in their order, with the model in evaluation mode.

    ``known`` are texts that an untouched model has written before.
    """

    def read(batch: SpeechBatch) -> Known:
        return Known(adapter.transcribe(batch.to(device)))

    with adapter.evaluating():
        for batch in batches:
            yield from transcripts_of(batch, known.of("text", batch, read).texts)


@torch.no_grad()
def evaluate(
    adapter: ASRAdapter,
    batches: Iterable[SpeechBatch],
    device: torch.device | str = "cpu",
    known: KnownTexts = NOTHING_KNOWN,
) -> Evaluation:
    """Transcripts and mean loss of ``batches``, with the model in evaluation mode; ``known`` as above."""

    def score(batch: SpeechBatch) -> Known:
        output, texts = adapter.evaluate(batch.to(device))
        return Known(texts, output.loss.item(), output.weight)

    transcripts: list[Transcript] = []
    total, weight = 0.0, 0
    with adapter.evaluating():
        for batch in batches:
            found = known.of("loss and text", batch, score)
            total, weight = total + found.loss * found.weight, weight + found.weight
            transcripts += transcripts_of(batch, found.texts)
    return Evaluation(tuple(transcripts), total / max(weight, 1))
