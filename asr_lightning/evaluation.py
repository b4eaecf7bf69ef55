"""One pass of an adapter over a loader, outside or beside the trainer. Knows the contract and no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring import Transcript
from asr_lightning.types import SpeechBatch


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
