"""One training by several processes on this machine, without a command line: ``python -m tests.many_devices``.

The libraries are loaded once, and each process is forked from that, so that four processes start as fast as one.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from asr_lightning.callbacks.baseline import BaselineWER
from asr_lightning.callbacks.compile_layers import CompileLayers
from asr_lightning.callbacks.finite import FiniteGradients
from asr_lightning.callbacks.half_epoch import HalfEpochValidation
from asr_lightning.callbacks.train_only import TrainOnly
from asr_lightning.cli.lightning_cli import TRAINER_DEFAULTS
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.module import ASRModule
from asr_lightning.training.optim import OptimizerSettings
from asr_lightning.training.quiet import quiet
from asr_lightning.training.sharded import ShardedStrategy

TOGETHER = 4
"""Number of batches in a step, for any number of processes."""


class Weights(Callback):
    """Saves the weights after the last step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: Trainer, pl_module: ASRModule) -> None:
        state = trainer.strategy.lightning_module_state_dict()  # gathers, so every process asks
        if trainer.is_global_zero:
            metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
            torch.save({"state": state, "metrics": metrics, "steps": trainer.global_step}, self.path)


def load(kind: str, source: str) -> Any:
    """Load the adapter with all its dropout and masks, which are drawn batch by batch."""
    if kind == "whisper":
        from asr_lightning.adapters.shared.masks import SpecAugment
        from asr_lightning.adapters.whisper import WhisperAdapter

        return WhisperAdapter(source, spec_augment=SpecAugment(1, num_freq_masks=1), label_smoothing=0.1)
    if kind == "nemo":
        from asr_lightning.adapters.nemo import NeMoAdapter

        return NeMoAdapter(source)
    if kind == "toy":
        from asr_lightning.adapters.toy import ToyAdapter

        return ToyAdapter(source)
    from tests.tiny_hf import load_tiny

    return load_tiny(Path(source), kind)


def train(kind: str, source: str, data_dir: str, strategy: str, processes: int, compiled: bool, target: Path) -> None:
    """Validate, then train 20 steps on the same batches, and write weights and metrics to ``target``."""
    seed_everything(0, verbose=False)
    adapter = load(kind, source)
    module = ASRModule(adapter, OptimizerSettings(lr=1e-4))
    data = AudioFolderDataModule(data_dir, 2, 1, collator=adapter.collator(), limits=adapter.limits)
    trainer = Trainer(
        **{**TRAINER_DEFAULTS, "max_epochs": 10},
        accelerator="cpu",
        check_val_every_n_epoch=10,
        devices=processes,
        strategy=ShardedStrategy() if strategy == "fsdp" else strategy,
        accumulate_grad_batches=TOGETHER // processes,
        logger=False,
        enable_checkpointing=False,
        callbacks=[
            HalfEpochValidation(half=False),
            TrainOnly(list(adapter.groups)),
            BaselineWER(),
            FiniteGradients(),
            # FSDP hands views to the layers, for which aot_eager takes 43 s on one core, with the same result.
            CompileLayers(compiled, backend="eager" if strategy == "fsdp" else "aot_eager"),
            Weights(target),
        ],
    )
    (first,) = trainer.validate(module, data, verbose=False)
    trainer.fit(module, data)
    if trainer.is_global_zero:
        torch.save(torch.load(target, weights_only=True) | {"first": first}, target)


def fork(processes: int, *arguments: Any) -> None:
    """Run ``train`` in ``processes`` children.

    Raises:
        RuntimeError: A child failed.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    children = []
    for rank in range(processes):
        if (child := os.fork()) == 0:
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank), NODE_RANK="0")
            code = 1
            try:
                train(*arguments)
                code = 0
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    if any(codes):
        raise RuntimeError(f"{arguments} failed")


def main(kind: str, source: str, data_dir: str, target: str, *runs: str) -> None:
    """Train once for each of ``runs``: a strategy and a number of processes, such as ``ddp2`` or ``compiled_ddp2``."""
    load(kind, source)  # imports
    with quiet():
        for run in runs:
            strategy, processes = run.removeprefix("compiled_")[:-1], int(run[-1])
            compiled = run.startswith("compiled_")
            fork(processes, kind, source, data_dir, strategy, processes, compiled, Path(target) / f"{run}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
