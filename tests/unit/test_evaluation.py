"""A pass over a split finds what its batches say, weighted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.scoring.evaluation import evaluate, transcribe_all
from tests.toy_run import toy_data


def test_evaluate_weighs_the_loss_and_leaves_no_trace(tones: Path) -> None:
    adapter, data = ToyAdapter(), toy_data(tones, batch_size=2)
    adapter.model.train()
    evaluation = evaluate(adapter, data.loader("train"))
    assert adapter.model.training
    assert list(evaluation.transcripts) == list(transcribe_all(adapter, data.loader("train")))
    with torch.no_grad(), adapter.evaluating():
        outputs = [adapter.loss(batch) for batch in data.loader("train")]
    weights = [output.weight for output in outputs]
    assert len(set(weights)) > 1, "batches of one size would not show a wrong mean"
    expected = sum(o.loss.item() * o.weight for o in outputs) / sum(weights)
    assert evaluation.loss == pytest.approx(expected)
