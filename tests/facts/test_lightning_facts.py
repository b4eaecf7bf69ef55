"""Behaviour of Lightning that this package depends on.

If a test fails after an upgrade, read its docstring, then decide.
"""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader


class Inner(LightningModule):
    """A nested LightningModule, like a NeMo model inside ours."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
        self.fired: list[str] = []

    def on_train_start(self) -> None:
        self.fired.append("on_train_start")

    def on_after_backward(self) -> None:
        self.fired.append("on_after_backward")


class Outer(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.order: list[str] = []

    def setup(self, stage: str) -> None:
        self.order.append("module setup")

    def training_step(self, batch, _):
        return self.inner.layer(batch).sum()

    def validation_step(self, batch, _) -> None:
        self.order.append(f"validation after {self.trainer.fit_loop.epoch_loop.batch_progress.current.ready}")

    def configure_optimizers(self):
        self.order.append("optimizers")
        return torch.optim.SGD(self.parameters(), 0.1)


class Recorder(Callback):
    def setup(self, trainer, pl_module, stage: str) -> None:
        pl_module.order.append("callback setup")

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        pl_module.training_modes = [module.training for module in pl_module.inner.modules()]


def fit(module: Outer, num_batches: int = 3, **options) -> Outer:
    loader = DataLoader(torch.randn(num_batches, 2), batch_size=1)
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, callbacks=[Recorder()], **options,
    )  # fmt: skip
    trainer.fit(module, loader, loader)
    return module


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.mark.parametrize(("num_batches", "validations"), [(5, [2, 4]), (7, [3, 6]), (11, [5, 10])])
def test_half_an_interval_floors(num_batches: int, validations: list[int]) -> None:
    """L4: the last batch of an odd epoch is never validated. Hence HalfEpochValidation."""
    module = fit(Outer(), num_batches, val_check_interval=0.5)
    after = [int(event.split()[-1]) for event in module.order if event.startswith("validation")]
    assert sorted(set(after)) == validations


def test_nested_hooks_never_fire() -> None:
    """Whatever a vendor does in Lightning hooks of its model, we have to do ourselves."""
    assert fit(Outer()).inner.fired == []


def test_callback_setup_comes_before_the_optimizers() -> None:
    """TrainOnly freezes in ``setup``, and the optimizer is built from the remaining parameters."""
    order = fit(Outer()).order
    assert order.index("callback setup") < order.index("module setup") < order.index("optimizers")


def test_fit_keeps_eval_mode() -> None:
    """A model that arrives in eval mode would be trained in eval mode, so ASRModule calls ``train()``."""
    module = Outer()
    module.inner.eval()
    assert not any(fit(module).training_modes)


def test_modes_come_back_after_validation() -> None:
    """Each submodule gets its own mode back, so that frozen parts stay in eval mode."""
    module = Outer()
    module.inner.layer[1].eval()
    fit(module, val_check_interval=1)
    assert module.training_modes == [True, True, True, False]
