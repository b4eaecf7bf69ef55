"""Trains the same NeMo model by NeMo itself and by this package, on the sample clips (synthetic speech).

NeMo's side does what its script speech_to_text_finetune.py does with its configuration: manifests, NeMo's loaders with
random batches, NeMo's optimizer set-up, training step, validation after each epoch, ``save_to``. It leaves out the wait
of 60 s that the script adds on one device when it starts from a pretrained name. Both sides train all weights of a
FastConformer with random weights, batch 16, float32, without augmentation, and score dev after every epoch, each in a
separate process, in the order A B B A. Run: ``.venv-nemo/bin/python benchmarks/nemo_train.py``, about five minutes on
two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
CLIPS = ROOT / "examples" / "german_accent" / "clips"
WARMUP_STEPS = 3


def main() -> None:
    """Parse the command line; a child process gets the side that it runs by ``--side``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["nemo", "ours"])
    parser.add_argument("--source")
    parser.add_argument("--kind", nargs="+", default=["ctc"])
    parser.add_argument("--width", type=int, default=176, help="encoder width; 176: NVIDIA's small FastConformer")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0, help="loader processes of NeMo's side; its script takes 8")
    options = parser.parse_args()
    if options.side is None:
        for kind in options.kind:
            compare(kind, options)
    else:
        side = run_nemo if options.side == "nemo" else run_ours
        print(json.dumps(side(options.source, options)))


def compare(kind: str, options: argparse.Namespace) -> None:
    """Run both sides in the order A B B A on one file of random weights, and print medians and ratios."""
    from tests.tiny_nemo import tiny_nemo

    results: dict[str, list[dict[str, float]]] = {"nemo": [], "ours": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.nemo"
        tiny_nemo(path, kind, 256, options.width, options.layers, spec_augment=None)
        for side in ("nemo", "ours", "ours", "nemo"):
            results[side].append(measure(side, path, options))
            print(side, json.dumps(results[side][-1]), flush=True)
    median = {
        side: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for side, runs in results.items()
    }
    print(f"\n{kind}: {median['ours']['parameters'] / 1e6:.1f} million parameters, {options.epochs} epochs, batch 16")
    for side, name in (("nemo", "NeMo's own training"), ("ours", "asr_lightning")):
        row = median[side]
        print(f"{name:22}{row['step_seconds']:8.3f} s a step{row['run_seconds']:8.1f} s the run"
              f"{row['fit_seconds']:8.1f} s of it in fit{row['peak_mb']:9.0f} MB")  # fmt: skip
    for key, name in (("step_seconds", "a step"), ("fit_seconds", "fit"), ("run_seconds", "the run")):
        print(f"ratio of {name}: {median['nemo'][key] / median['ours'][key]:.2f}")
    print(flush=True)


def measure(side: str, source: Path, options: argparse.Namespace) -> dict[str, float]:
    """Run one side in a fresh process, which takes ``run_seconds`` in all."""
    command = [sys.executable, __file__, "--side", side, "--source", str(source), "--epochs", str(options.epochs)]
    started = time.perf_counter()
    result = subprocess.run([*command, "--workers", str(options.workers)], capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"the {side} side failed:\n{result.stderr}")
    return {**json.loads(result.stdout.splitlines()[-1]), "run_seconds": time.perf_counter() - started}


class Clock:
    """Measures the seconds of training steps, including loading and without validation."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.steps: list[float] = []

    def callback(self) -> Any:
        """Return a Lightning callback that records steps in this clock."""
        from lightning.pytorch import Callback

        clock = self

        class Watch(Callback):
            def on_train_epoch_start(self, *_: Any) -> None:
                clock.ends = [time.perf_counter()]

            def on_train_batch_end(self, *_: Any) -> None:
                clock.steps.append(time.perf_counter() - clock.ends[-1])
                clock.ends.append(time.perf_counter())

        return Watch()

    @property
    def mean(self) -> float:
        """Mean duration of all steps except the first."""
        return statistics.mean(self.steps[WARMUP_STEPS:])


TRAINER = {
    "accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
    "enable_checkpointing": False, "num_sanity_val_steps": 0,
}  # fmt: skip


def finished(clock: Clock, model: Any, started: float) -> dict[str, float]:
    """Return the report of a side."""
    from asr_lightning.training.devices import peak_memory_mb

    parameters = sum(parameter.numel() for parameter in model.parameters())
    fit_seconds = time.perf_counter() - started
    return {
        "step_seconds": clock.mean, "fit_seconds": fit_seconds, "peak_mb": peak_memory_mb(), "parameters": parameters
    }  # fmt: skip


def run_ours(source: str, options: argparse.Namespace) -> dict[str, float]:
    """Train with our module, data module and callbacks: duration buckets, validation each epoch, best weights kept."""
    from lightning.pytorch import Trainer, seed_everything

    from asr_lightning.adapters.nemo import NeMoAdapter
    from asr_lightning.callbacks.half_epoch import HalfEpochValidation
    from asr_lightning.callbacks.keep_best import KeepBest
    from asr_lightning.callbacks.train_only import TrainOnly
    from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
    from asr_lightning.module import ASRModule
    from asr_lightning.training.optim import OptimizerSettings

    seed_everything(0, verbose=False)
    adapter, clock = NeMoAdapter(source), Clock()
    data = AudioFolderDataModule(str(CLIPS), batch_size=16, collator=adapter.collator(), limits=adapter.limits)
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [TrainOnly(list(adapter.groups), batch_norm="train"), HalfEpochValidation(half=False)]
        callbacks += [KeepBest(Path(folder) / "best"), clock.callback()]
        trainer = Trainer(max_epochs=options.epochs, use_distributed_sampler=False, callbacks=callbacks, **TRAINER)
        started = time.perf_counter()
        trainer.fit(ASRModule(adapter, OptimizerSettings(lr=1e-4)), data)
        return finished(clock, adapter.model, started)


def run_nemo(source: str, options: argparse.Namespace) -> dict[str, float]:
    """Train NeMo's model as a LightningModule, with NeMo's loaders, optimizer, training step and metric."""
    from lightning.pytorch import Trainer, seed_everything
    from nemo.collections.asr.models import ASRModel
    from omegaconf import OmegaConf

    seed_everything(0, verbose=False)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(max_epochs=options.epochs, callbacks=[clock.callback()], **TRAINER)
        model = ASRModel.restore_from(source, map_location="cpu", trainer=trainer)
        loader = {"sample_rate": 16_000, "batch_size": 16, "num_workers": options.workers, "pin_memory": False}
        train = {**loader, "shuffle": True, "max_duration": 20, "min_duration": 0.1}
        for split, settings in (("train", train), ("dev", {**loader, "shuffle": False})):
            settings["manifest_filepath"] = str(write_manifest(split, Path(folder)))
            setup = model.setup_training_data if split == "train" else model.setup_multiple_validation_data
            setup(OmegaConf.create(settings))
        schedule = {"name": "CosineAnnealing", "warmup_steps": 3, "warmup_ratio": None, "min_lr": 5e-6}
        optimizer = {"name": "adamw", "lr": 1e-4, "betas": [0.9, 0.98], "weight_decay": 1e-3, "sched": schedule}
        model.setup_optimization(OmegaConf.create(optimizer))
        started = time.perf_counter()
        trainer.fit(model)
        model.save_to(str(Path(folder) / "model.nemo"))
        return finished(clock, model, started)


def write_manifest(split: str, folder: Path) -> Path:
    """Write the rows of ``split`` in NeMo's format, with lengths and the model's spelling, and return the path."""
    import soundfile

    from asr_lightning.data.manifest import CSV_NAMES, read_manifest

    path = folder / f"{split}.json"
    with path.open("w") as file:
        for entry in read_manifest(CLIPS / CSV_NAMES[split], CLIPS):
            audio = CLIPS / entry.row.file_name
            text = "".join(char for char in entry.row.text.lower() if char.isalpha() or char in " '")
            row = {"audio_filepath": str(audio), "duration": soundfile.info(audio).duration, "text": text}
            file.write(json.dumps(row) + "\n")
    return path


if __name__ == "__main__":
    main()
