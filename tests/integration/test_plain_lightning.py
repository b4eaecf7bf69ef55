"""Uses the classes with Lightning's own Trainer, without our command line, as a script or a notebook does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

import asr_lightning as asr

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def parts(folder: Path, **options: Any) -> tuple[asr.ASRModule, asr.AudioFolderDataModule]:
    pl.seed_everything(0, verbose=False)
    adapter = asr.adapters.ToyAdapter()
    data = asr.AudioFolderDataModule(
        folder, batch_size=4, collator=adapter.collator(), limits=adapter.limits, **options
    )
    return asr.ASRModule(adapter, asr.OptimizerSettings(lr=0.01, schedule="constant")), data


def test_as_the_page_has_it(tones_once: Path, tmp_path: Path) -> None:
    module, data = parts(tones_once)
    callbacks = [asr.callbacks.HalfEpochValidation(), asr.callbacks.TrainOnly(["encoder", "head"], "train")]
    trainer = pl.Trainer(max_epochs=25, callbacks=callbacks, **QUIET)
    trainer.fit(module, data)
    assert trainer.callback_metrics["dev/wer"] < 0.6
    module.adapter.save(tmp_path / "models" / "mine")
    clip = data.dataset("train")[0]
    transcription = asr.load(tmp_path / "models" / "mine").transcribe(clip.waveform, sample_rate=clip.sample_rate)
    assert transcription.text == clip.text


@pytest.mark.parametrize(
    "options",
    [{"fast_dev_run": True}, {"limit_train_batches": 1, "limit_val_batches": 1}, {"overfit_batches": 2}],
    ids=lambda options: next(iter(options)),
)
@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_lightnings_own_short_runs(tones_once: Path, options: dict[str, Any]) -> None:
    module, data = parts(tones_once)
    before = module.adapter.model.head.weight.clone()
    trainer = pl.Trainer(max_epochs=2, **QUIET, **options)
    trainer.fit(module, data)
    assert trainer.num_training_batches == (options.get("overfit_batches") or 1)
    assert not torch.equal(module.adapter.model.head.weight, before)


@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_overfitting_sees_the_same_batches_in_every_epoch(tones_once: Path) -> None:
    seen: list[tuple[str, ...]] = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: asr.SpeechBatch, batch_idx: int) -> None:
            seen.append(batch.uids)

    module, data = parts(tones_once)
    pl.Trainer(max_epochs=3, overfit_batches=2, callbacks=[Look()], **QUIET).fit(module, data)
    assert len(seen) == 6 and seen[:2] == seen[2:4] == seen[4:]
    assert all(len(uids) > 1 for uids in seen)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_own_loaders(tones_once: Path) -> None:
    """Any loader works whose batches keep the contract, here a plain loader that shuffles."""
    module, data = parts(tones_once)
    data.setup("fit")
    collate = module.adapter.collator()
    train = DataLoader(data.dataset("train"), batch_size=4, shuffle=True, collate_fn=collate)
    dev = DataLoader(data.dataset("dev"), batch_size=4, collate_fn=collate)
    trainer = pl.Trainer(max_epochs=1, **QUIET)
    trainer.fit(module, train, dev)
    assert trainer.global_step == len(train)
    assert trainer.callback_metrics["dev/wer"] >= 0
