"""The weights are averaged over the later steps, also across a resume and with accumulated batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.callbacks.average_steps import AverageSteps
from asr_lightning.callbacks.keep_best import average, trained_state
from asr_lightning.module import ASRModule
from tests.toy_run import toy_data


class Recorder(Callback):
    """Records the weights after every step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Keep the weights after the first batch with a new step number, which ended that step."""
        self.steps.setdefault(trainer.global_step, {n: t.clone() for n, t in trained_state(pl_module.model).items()})


def train(
    folder: Path, share: float, epochs: int = 4, accumulate: int = 1, ckpt: Path | None = None, stop: int = -1
) -> tuple[AverageSteps, Recorder, Trainer]:
    averaged, recorder = AverageSteps(share), Recorder()
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, accumulate_grad_batches=accumulate, callbacks=[averaged, recorder],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        limit_val_batches=0, use_distributed_sampler=False,
    )  # fmt: skip
    torch.manual_seed(0)
    module, data = ASRModule(ToyAdapter("toy")), toy_data(folder, batch_size=4)
    if stop > 0:
        recorder.on_train_epoch_end = lambda trainer, _: setattr(
            trainer, "should_stop", trainer.current_epoch + 1 == stop
        )  # type: ignore[method-assign]
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    return averaged, recorder, trainer


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Compare all but BatchNorm's number of batches, which has no mean."""
    floats = [name for name, tensor in left.items() if tensor.is_floating_point()]
    return left.keys() == right.keys() and all(torch.allclose(left[n], right[n], rtol=1e-3, atol=1e-5) for n in floats)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_the_mean_of_the_later_steps(tones_once: Path, accumulate: int) -> None:
    averaged, recorder, trainer = train(tones_once, 0.5, accumulate=accumulate)
    planned = int(trainer.estimated_stepping_batches)
    later = [weights for step, weights in recorder.steps.items() if step > planned / 2]
    assert averaged.count == len(later) == planned - planned // 2
    assert same(averaged.weights, average(later))


def test_a_resumed_run_goes_on_with_its_mean(tones_once: Path, tmp_path: Path) -> None:
    whole, _, _ = train(tones_once, 0.7)
    _, _, trainer = train(tones_once, 0.7, stop=2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, _, _ = train(tones_once, 0.7, ckpt=tmp_path / "last.ckpt")
    assert resumed.count == whole.count
    assert same(resumed.weights, whole.weights)


def test_none_are_averaged_where_none_is_asked_for(tones_once: Path) -> None:
    averaged, _, _ = train(tones_once, 0.0, epochs=1)
    assert averaged.weights == {}


def test_a_share_is_a_share() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, not 70"):
        AverageSteps(70)
