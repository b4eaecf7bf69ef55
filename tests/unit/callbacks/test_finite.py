"""A step with gradients that are not finite is skipped and named, and several in a row end training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from asr_lightning.callbacks.finite import FiniteGradients
from tests.toy_run import toy_data, toy_fit, toy_module


class Poison(Callback):
    """Makes the gradients of chosen batches infinite or NaN, though their loss is finite."""

    def __init__(self, steps: set[int], value: float = float("nan")) -> None:
        self.steps, self.value = steps, value
        self.uids: list[str] = []
        self.weights: list[torch.Tensor] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.weights.append(pl_module.model.head.weight.detach().clone())
        if trainer.global_step in self.steps:
            self.uids += batch.uids

    def on_after_backward(self, trainer, pl_module) -> None:
        if trainer.global_step in self.steps:
            pl_module.model.head.bias.grad[0] = self.value


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_batch_is_reported(tones: Path, value: float, fused: bool, caplog: pytest.LogCaptureFixture) -> None:
    """One bad step moves no weight, and its recordings are named; the next one trains on."""
    poison = Poison({2}, value)
    module = toy_module(fused)
    toy_fit(module, toy_data(tones), [poison, FiniteGradients()], max_epochs=1)
    assert torch.equal(poison.weights[2], poison.weights[3])
    assert not torch.equal(poison.weights[3], poison.weights[4])
    (message,) = [record.getMessage() for record in caplog.records if record.name.endswith("finite")]
    assert message == f"step 2: the gradients of {', '.join(poison.uids)} are not finite; this step is left out"
    assert all(parameter.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("fused", [False, True])
def test_bad_steps_in_a_row_end_the_run(tones: Path, fused: bool) -> None:
    poison = Poison({1, 2, 3})
    with pytest.raises(ValueError, match=r"step 3: .*3 steps in a row: lower --model.optimizer.lr") as error:
        toy_fit(toy_module(fused), toy_data(tones), [poison, FiniteGradients(limit=2)], max_epochs=2)
    assert all(uid in str(error.value) for uid in poison.uids[-2:])


@pytest.mark.parametrize("fused", [False, True])
def test_single_bad_steps_do_not_end_the_run(tones: Path, fused: bool, caplog: pytest.LogCaptureFixture) -> None:
    toy_fit(toy_module(fused), toy_data(tones), [Poison({0, 2, 4, 6}), FiniteGradients(limit=1)], max_epochs=2)
    assert len([record for record in caplog.records if record.name.endswith("finite")]) == 4


def test_accumulated_batches_are_named_together(tones: Path, caplog: pytest.LogCaptureFixture) -> None:
    poison = Poison({1})
    toy_fit(toy_module(), toy_data(tones), [poison, FiniteGradients()], accumulate_grad_batches=2)
    assert len(poison.uids) > 2, "of two batches"
    assert f"the gradients of {', '.join(poison.uids)} are" in caplog.text


def test_a_fused_step_is_read_at_the_validation_and_equals_the_plain_one(tones: Path) -> None:
    """The weights are the same, also after a skipped step, and the flags are not read between two validations."""
    weights, num_read = [], []

    class Watched(FiniteGradients):
        def _read(self) -> None:
            num_read.append(len(self._unread))
            super()._read()

    for fused in (False, True):
        module = toy_module(fused)
        toy_fit(module, toy_data(tones), [Poison({1}), Watched()], max_epochs=2)
        # The gradient of the bias before BatchNorm is only rounding error, which Adam turns into full steps.
        weights.append({n: p.detach() for n, p in module.model.named_parameters() if n != "encoder.0.bias"})
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)  # the rate is 1e-2
    assert max(num_read) > 1, "several steps are read at once"
