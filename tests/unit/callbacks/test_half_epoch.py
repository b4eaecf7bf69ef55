import math
from pathlib import Path

import pytest
from lightning.pytorch import Callback
from make_tones import PHRASES, write_tones

from asr_lightning.callbacks.half_epoch import HalfEpochValidation
from tests.toy_run import toy_data, toy_fit, toy_module


class Validations(Callback):
    """Remembers after which batch of the epoch each validation ran."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.batch = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.batch = batch_idx + 1

    def on_validation_start(self, trainer, pl_module) -> None:
        self.batches.append(self.batch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine clips to train on, one for dev and one for test."""
    folder = tmp_path_factory.mktemp("half") / "tones"
    write_tones(folder, PHRASES[:11])
    return folder


@pytest.mark.parametrize("num_batches", range(1, 10))
def test_half_epoch_steps(folder: Path, num_batches: int) -> None:
    validations = Validations()
    data = toy_data(folder, batch_size=1, shares=(0.8, 0.1, 0.1))
    toy_fit(toy_module(), data, [validations], max_epochs=2, limit_train_batches=num_batches)
    expected = sorted({math.ceil(num_batches / 2), num_batches})
    assert validations.batches == expected * 2


def test_last_step_is_validated(folder: Path) -> None:
    """``max_steps`` may end a run anywhere; its last weights are scored."""
    validations = Validations()
    data = toy_data(folder, batch_size=1, shares=(0.8, 0.1, 0.1))
    trainer = toy_fit(toy_module(), data, [validations], max_epochs=-1, max_steps=2, limit_train_batches=9)
    assert trainer.global_step == 2
    assert validations.batches == [2]


def test_only_whole_epochs(folder: Path) -> None:
    validations = Validations()
    data = toy_data(folder, batch_size=2, shares=(0.8, 0.1, 0.1))
    toy_fit(toy_module(), data, [validations, HalfEpochValidation(half=False)], max_epochs=1, limit_train_batches=4)
    assert validations.batches == [4]
