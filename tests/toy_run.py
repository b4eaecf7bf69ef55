"""Helpers that train the toy adapter in this process, for tests of the loop and its callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer, seed_everything

from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.callbacks.half_epoch import HalfEpochValidation
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.module import ASRModule
from asr_lightning.training.optim import OptimizerSettings


def toy_module(fused: bool | None = None, pull: float = 0.0, **options: Any) -> ASRModule:
    """Make a seeded module around a fresh toy."""
    seed_everything(0, verbose=False)
    return ASRModule(ToyAdapter(), OptimizerSettings(lr=0.01, schedule="constant", fused=fused, pull=pull), **options)


def toy_data(folder: Path, **options: Any) -> AudioFolderDataModule:
    """Make a data module of ``folder`` with the toy's collator and limits."""
    adapter = ToyAdapter()
    return AudioFolderDataModule(
        str(folder), **{"batch_size": 2, "collator": adapter.collator(), "limits": adapter.limits, **options}
    )


def toy_fit(
    module: ASRModule,
    data: AudioFolderDataModule,
    callbacks: list[Callback],
    ckpt_path: str | None = None,
    **options: Any,
) -> Trainer:
    """Fit on the CPU without loggers, and return the trainer."""
    settings: dict[str, Any] = {"max_epochs": 1, "logger": False, "enable_checkpointing": False, **options}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1,
        callbacks=[HalfEpochValidation(), *callbacks],
        **settings,
    )
    trainer.fit(module, data, ckpt_path=ckpt_path)
    return trainer
