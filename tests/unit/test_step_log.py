"""Losses of steps are read together and logged once, and one that is not finite is named."""

from __future__ import annotations

import math

import pytest
import torch

from asr_lightning.training import step_log
from asr_lightning.training.step_log import StepLog


def test_the_last_batch_of_a_step_is_read_and_once() -> None:
    log = StepLog()
    assert math.isnan(log.loss) and log.read() == {}
    log.add(0, ["a"], torch.tensor(4.0), {})
    log.add(0, ["b"], torch.tensor(3.0), {"ctc": torch.tensor(0.5)})
    log.add(1, ["c"], torch.tensor(2.0, dtype=torch.bfloat16), {"ctc": torch.tensor(0.25)})
    assert log.read() == {0: {"loss": 3.0, "ctc": 0.5}, 1: {"loss": 2.0, "ctc": 0.25}}
    assert log.loss == 2.0 and log.read() == {}


def test_a_loss_on_the_cpu_is_looked_at_at_once() -> None:
    with pytest.raises(ValueError, match=r"the loss of the recordings a, b is nan: lower --model.optimizer.lr"):
        StepLog().add(0, ["a", "b"], torch.tensor(torch.nan), {})


def test_a_loss_elsewhere_is_named_when_it_is_read() -> None:
    log = StepLog()
    log._batches = [(3, ["a"], {"loss": torch.tensor(1.0)}), (4, ["b"], {"loss": torch.tensor(torch.inf)})]
    with pytest.raises(ValueError, match="the loss of the recordings b is inf"):
        log.read()


def test_it_is_due_every_few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    log = StepLog()
    assert not log.due
    monkeypatch.setattr(step_log, "READ_SECONDS", -1.0)
    assert log.due
