"""Keep the weights of the best checks; ``selection.py`` chooses among them when the run is over. Knows no model."""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from safetensors.torch import save_file
from torch import Tensor, nn

from asr_lightning.durable import faults
from asr_lightning.durable.files import sync_folder
from asr_lightning.training.checkpoints import sha256_at
from asr_lightning.training.sharded import whole

logger = logging.getLogger(__name__)

IN_NAME = 16  # hex digits of the hash: enough to tell the few files of a run apart


@dataclass(frozen=True, order=True)
class Check:
    """One check of dev; the lower the better: by WER, then by loss, since WER ties are common on small sets (T52).

    Attributes:
        wer: Corpus WER, as a fraction.
        loss: Mean dev loss.
        step: Optimizer steps done.
        epoch: Epochs done, with the current one's share.
        train_loss: Of the last batch; NaN before the first.
    """

    wer: float
    loss: float
    step: int
    epoch: float
    train_loss: float = float("nan")


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """What training changes in ``model``: trainable parameters, and buffers such as BatchNorm statistics."""
    trainable = {name: whole(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
    kept = model.state_dict()
    return trainable | {name: buffer for name, buffer in model.named_buffers() if name in kept}


class KeepBest(Callback):
    """Write the weights of the best checks; those that fall behind are removed.

    The name of each file has its hash. A run that is killed and resumed may make a check again, and on a GPU with other
    weights: the ones that a checkpoint refers to stay until no checkpoint does.

    Args:
        directory: For this callback alone.
        count: How many.

    Attributes:
        checks: Every check so far, in order: the learning curve.
    """

    def __init__(self, directory: str | Path, count: int = 4) -> None:
        self.directory = Path(directory)
        self.count = count
        self.checks: list[Check] = []
        self._names: dict[int, str] = {}
        self._referred: tuple[frozenset[str], ...] = ()

    @property
    def best(self) -> list[Check]:
        """The checks whose weights are kept, best first."""
        return sorted(self.checks)[: self.count]

    def path(self, check: Check) -> Path:
        """Where the weights of ``check`` are; no file is there if they were lost."""
        return self.directory / self._names.get(check.step, f"step-{check.step:06d}-lost")

    def protect(self) -> None:
        """Keep what the checkpoint that has just been written refers to, and the one before it; no other does."""
        self._referred = (*self._referred, self._kept())[-2:]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the check that has just ended with those before."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        found = {name: value.item() for name, value in trainer.callback_metrics.items()}
        place = trainer.global_step, epochs_done(trainer)
        check = Check(found["dev/wer"], found["dev/loss"], *place, pl_module.steps.loss)
        self.checks = [*(c for c in self.checks if c.step < check.step), check]
        if check in self.best:
            weights = weights_of(pl_module.model)  # every process: some strategies gather
            if trainer.is_global_zero:
                self._write(check, weights)

    def _write(self, check: Check, weights: dict[str, Tensor]) -> None:
        fresh = self.directory / "new.safetensors"
        write_weights(weights, fresh)
        self._names[check.step] = f"step-{check.step:06d}-{sha256_at(fresh)[:IN_NAME]}.safetensors"
        fresh.replace(self.path(check))
        sync_folder(self.directory)
        faults.point("training.best.kept")
        kept = self._kept().union(*self._referred)
        for path in self.directory.glob("step-*.safetensors"):
            if path.name not in kept:
                path.unlink()

    def _kept(self) -> frozenset[str]:
        return frozenset(self._names[check.step] for check in self.best if check.step in self._names)

    def state_dict(self) -> dict[str, Any]:
        """The checks and the names of their files; the directory belongs to the run, not to the checkpoint."""
        kept = self._kept()
        names = {step: name for step, name in self._names.items() if name in kept}
        return {"checks": [asdict(check) for check in self.checks], "names": names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the checks from a checkpoint; weights that are not as they were then are left out."""
        self.checks = [Check(**check) for check in state_dict["checks"]]
        self._names = {step: name for step, name in state_dict["names"].items() if self._is_whole(name)}
        self._referred = (self._kept(),)

    def _is_whole(self, name: str) -> bool:
        path = self.directory / name
        whole = path.is_file() and sha256_at(path)[:IN_NAME] == path.stem.rpartition("-")[2]
        if not whole:
            logger.warning("%s is missing or damaged: these weights cannot be chosen any more", path)
        return whole


def write_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write ``weights`` through to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def epochs_done(trainer: Trainer) -> float:
    """Epochs trained so far, with the current one's share."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return trainer.current_epoch + batches / trainer.num_training_batches


def steps_done(trainer: Trainer) -> int:
    """Optimizer steps so far, in all folds of the run."""
    before: int = trainer.datamodule.fold.number
    return (before * int(trainer.estimated_stepping_batches) if before else 0) + trainer.global_step


def average(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every floating tensor over ``states``, best first; anything else as the best has it (T62)."""
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }
