"""Trains twice: through our ``fit``, and by NeMo's own training step on the same batches, seeds and optimizer.

It runs at any size: ``python -m tests.nemo_parity --width 176 --layers 16 --epochs 2`` prints the losses of both.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.utils.data import DataLoader

from asr_lightning.training import optim
from asr_lightning.types import SpeechBatch

ROOT = Path(__file__).parents[1]
CLIPS = ROOT / "examples" / "german_accent" / "clips"
MASKS = {"num_time_masks": 2, "time_fraction": 0.05, "num_freq_masks": 2, "freq_bins": 27}  # as the checkpoint has them


class Record(Callback):
    """Seeds each step, so that dropout, dither and masks are the same on both sides, and records losses and batches."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.batches: list[SpeechBatch] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        self.batches.append(batch)
        pl_module.seed_batch = lambda _: None  # switched off, since NeMo's side does not have it
        torch.manual_seed(1000 + trainer.global_step)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        pl_module.steps.read()  # the module reads the loss only every few seconds
        self.losses.append(pl_module.steps.loss)


class RecordNeMo(Record):
    """Records the same for NeMo's step, which returns its mean loss."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.losses.append(outputs["loss"].item())


def ours(source: Path, run_dir: Path, groups: list[str], epochs: int, audio_dir: Path) -> tuple[Record, Any]:
    """Run ``fit`` from the command line, and return the record and the settings of its optimizer."""
    from asr_lightning.cli import lightning_cli

    arguments = [
        "fit", "--model.adapter=asr_lightning.adapters.nemo.NeMoAdapter", f"--model.adapter.init_args.source={source}",
        "--folds=off",
        *(f"--model.adapter.init_args.spec_augment.{name}={value}" for name, value in MASKS.items()),
        "--model.optimizer.lr=2e-3", f"--data.audio_dir={audio_dir}", "--data.batch_size=8", f"--run_dir={run_dir}",
        f"--train_only.groups={groups}", "--train_only.batch_norm=train", f"--trainer.max_epochs={epochs}",
        "--trainer.accelerator=cpu", "--trainer.callbacks+=tests.nemo_parity.Record",
    ]  # fmt: skip
    built = lightning_cli.main(arguments)
    (record,) = [callback for callback in built.trainer.callbacks if type(callback).__name__ == "Record"]
    return record, built.model.settings


def theirs(source: Path, batches: list[SpeechBatch], settings: Any) -> Record:
    """Train NeMo's model by its own training step and loss in Lightning's trainer, with our optimizer and batches."""
    from nemo.collections.asr.models import ASRModel

    model = ASRModel.restore_from(str(source), map_location="cpu").train()
    groups = {"all": ("",)}
    optimizer, schedule = optim.build(model, groups, settings, len(batches))
    model._optimizer = optimizer
    model.configure_optimizers = lambda: {
        "optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}
    }  # fmt: skip
    record = RecordNeMo()
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        callbacks=[record],
    )  # fmt: skip
    model.set_trainer(trainer)
    rows = [
        (b.inputs["input_signal"].clone(), b.inputs["input_signal_length"], b.targets.clamp(min=0), b.target_lengths)
        for b in batches
    ]
    trainer.fit(model, DataLoader(rows, batch_size=None))  # type: ignore[arg-type]
    return record


def main() -> None:
    """Print the losses of both sides and their largest relative difference."""
    from tests.tiny_nemo import tiny_nemo

    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("width", 32), ("layers", 2), ("epochs", 1), ("vocabulary", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = {"width": options.width, "layers": options.layers}
        source = tiny_nemo(Path(folder) / "m.nemo", "ctc", options.vocabulary, **size)
        record, settings = ours(source, Path(folder) / "run", ["frontend", "encoder", "head"], options.epochs, CLIPS)
        other = theirs(source, record.batches, settings)
    worst = 0.0
    for step, (mine, nemos) in enumerate(zip(record.losses, other.losses, strict=True)):
        worst = max(worst, abs(mine - nemos) / abs(nemos))
        print(f"step {step:4}  ours {mine:.6f}  NeMo {nemos:.6f}  relative difference {abs(mine - nemos) / nemos:.1e}")
    print(f"largest relative difference {worst:.1e} in {len(record.losses)} steps")


if __name__ == "__main__":
    main()
