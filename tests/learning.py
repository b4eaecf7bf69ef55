"""Helpers that train a model on a few clips until it knows them, which shows that its loss and its decoding work."""

from __future__ import annotations

import torch

from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring.edits import score
from asr_lightning.scoring.evaluation import transcribe_all
from asr_lightning.scoring.text import basic
from asr_lightning.types import SpeechBatch


def train_until_read(adapter: ASRAdapter, batch: SpeechBatch, most: int = 600) -> int:
    """Train on ``batch``, in train mode, until every text in it is right; returns the number of steps."""
    torch.manual_seed(0)
    adapter.model.train()
    optimizer = torch.optim.AdamW([p for p in adapter.model.parameters() if p.requires_grad], lr=5e-3)
    for step in range(1, most + 1):
        optimizer.zero_grad()
        adapter.loss(batch).loss.backward()
        torch.nn.utils.clip_grad_norm_(adapter.model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0 and wer(adapter, batch) == 0:
            return step
    raise AssertionError(f"WER {wer(adapter, batch):.1%} after {most} steps")


def wer(adapter: ASRAdapter, batch: SpeechBatch) -> float:
    """Return the WER of the texts that ``adapter`` writes for ``batch``."""
    return score(transcribe_all(adapter, [batch]), basic).wer
