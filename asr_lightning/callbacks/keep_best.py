"""Keeps the weights of the best validations, among which ``run/selection.py`` chooses when training is over.

Knows no model.
"""

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

HASH_DIGITS = 16  # hex digits of a file's hash in its name: enough to tell the few files of a run apart


@dataclass(frozen=True, order=True)
class Validation:
    """Scores of one pass over the dev set.

    Validations sort from best to worst: by WER, then by loss, since ties of the WER are common on small dev sets.

    Attributes:
        wer: Corpus WER, as a fraction.
        loss: Mean dev loss.
        step: Number of optimizer steps before this validation.
        epoch: Number of epochs before it, including the finished share of the current epoch.
        train_loss: Loss of the last training batch; NaN before the first one.
    """

    wer: float
    loss: float
    step: int
    epoch: float
    train_loss: float = float("nan")


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Everything that training changes in ``model``: trainable parameters, and buffers such as BatchNorm statistics."""
    trainable = {name: whole(p.detach()) for name, p in model.named_parameters() if p.requires_grad}
    persistent = model.state_dict()
    return trainable | {name: buffer for name, buffer in model.named_buffers() if name in persistent}


class KeepBest(Callback):
    """Save the weights of the best validations and delete those that are no longer among them.

    Each file name contains a hash of the file. A run that is killed and resumed may repeat a validation, and on a GPU
    its weights may differ the second time. Files that a checkpoint refers to are therefore kept until no checkpoint
    does.

    Args:
        directory: Folder for the weights; nothing else may be in it.
        count: How many validations to keep the weights of.

    Attributes:
        validations: All validations so far, in order: the learning curve.
    """

    def __init__(self, directory: str | Path, count: int = 4) -> None:
        self.directory = Path(directory)
        self.count = count
        self.validations: list[Validation] = []
        self._names: dict[int, str] = {}
        self._names_in_checkpoints: tuple[frozenset[str], ...] = ()

    @property
    def best(self) -> list[Validation]:
        """The validations whose weights are kept, best first."""
        return sorted(self.validations)[: self.count]

    def path(self, validation: Validation) -> Path:
        """The file with the weights of ``validation``. It does not exist if the weights were lost."""
        return self.directory / self._names.get(validation.step, f"step-{validation.step:06d}-lost")

    def protect_checkpointed_weights(self) -> None:
        """Keep the files that the checkpoint just written refers to, and those of the checkpoint before it."""
        self._names_in_checkpoints = (*self._names_in_checkpoints, self._best_names())[-2:]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the validation that has just ended, and save the weights if it is one of the best."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        validation = Validation(
            metrics["dev/wer"], metrics["dev/loss"], trainer.global_step, epochs_done(trainer), pl_module.steps.loss
        )
        self.validations = [*(v for v in self.validations if v.step < validation.step), validation]
        if validation in self.best:
            state = trained_state(pl_module.model)  # in every process: some strategies gather here
            if trainer.is_global_zero:
                self._write(validation, state)

    def _write(self, validation: Validation, state: dict[str, Tensor]) -> None:
        new = self.directory / "new.safetensors"
        write_weights(state, new)
        self._names[validation.step] = f"step-{validation.step:06d}-{sha256_at(new)[:HASH_DIGITS]}.safetensors"
        new.replace(self.path(validation))
        sync_folder(self.directory)
        faults.point("training.best.kept")
        needed = self._best_names().union(*self._names_in_checkpoints)
        for path in self.directory.glob("step-*.safetensors"):
            if path.name not in needed:
                path.unlink()

    def _best_names(self) -> frozenset[str]:
        return frozenset(self._names[v.step] for v in self.best if v.step in self._names)

    def state_dict(self) -> dict[str, Any]:
        """The validations and the names of their files. The directory belongs to the run, not to the checkpoint."""
        best = self._best_names()
        names = {step: name for step, name in self._names.items() if name in best}
        # The key is older than the word: checkpoints of earlier versions have it, and must still be read.
        return {"checks": [asdict(validation) for validation in self.validations], "names": names}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the validations from a checkpoint, and forget files that have changed or disappeared since."""
        self.validations = [Validation(**values) for values in state_dict["checks"]]
        self._names = {step: name for step, name in state_dict["names"].items() if self._is_undamaged(name)}
        self._names_in_checkpoints = (self._best_names(),)

    def _is_undamaged(self, name: str) -> bool:
        path = self.directory / name
        undamaged = path.is_file() and sha256_at(path)[:HASH_DIGITS] == path.stem.rpartition("-")[2]
        if not undamaged:
            logger.warning("%s is missing or damaged: these weights cannot be chosen any more", path)
        return undamaged


def write_weights(weights: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write ``weights`` to ``path``, with ``metadata`` in its header, and flush them to the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in weights.items()}, path, metadata)
        with path.open("r+b") as file:  # Windows flushes only files that are open for writing
            os.fsync(file.fileno())
    except BaseException:  # above all a full disk, of which half a file would take much
        path.unlink(missing_ok=True)
        raise


def epochs_done(trainer: Trainer) -> float:
    """Number of epochs trained so far, including the finished share of the current epoch."""
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    return trainer.current_epoch + batches / trainer.num_training_batches


def steps_done(trainer: Trainer) -> int:
    """Number of optimizer steps so far in all folds of the run."""
    finished_folds: int = trainer.datamodule.fold.number
    earlier_steps = finished_folds * int(trainer.estimated_stepping_batches) if finished_folds else 0
    return earlier_steps + trainer.global_step


def average(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of every floating-point tensor over ``states``, best first. Other tensors are those of the best.

    An integer tensor, such as BatchNorm's count of batches, has no meaningful mean.
    """
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0).to(first.dtype)
        if first.is_floating_point()
        else first
        for name, first in states[0].items()
    }
