"""The folder of a run: its configuration, its logs and the checkpoint to resume from.

Nothing in it is overwritten: a new run renames the folder of an earlier one.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from asr_lightning.errors import OptionError
from asr_lightning.training import checkpoints

logger = logging.getLogger(__name__)


class SaveConfig(SaveConfigCallback):
    """Save the resolved configuration at every start: ``config.yaml``, then ``config-2.yaml`` when it is resumed."""

    def __init__(self, parser: LightningArgumentParser, config: Namespace) -> None:
        super().__init__(parser, config, save_to_log_dir=False)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the configuration to a new file in the run folder."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and not data.fold.number:
            run_dir = Path(self.config.run_dir)
            run_dir.mkdir(parents=True, exist_ok=True)
            self.parser.save(self.config, first_free(run_dir / "config.yaml"))


def loggers_of(tensorboard: TensorBoardLogger, wandb: str) -> list[Logger]:
    """``tensorboard``, and Weights & Biases unless it is ``off``."""
    if wandb == "off":
        return [tensorboard]
    run_dir = Path(tensorboard.root_dir).parent
    name = f"{run_dir.name} {tensorboard.version}".rstrip()
    return [tensorboard, WandbLogger(name, run_dir, project="asr_lightning", offline=wandb == "offline")]


def first_free(path: Path) -> Path:
    """``path`` if it is free, otherwise the first free one with -2, -3, … before its suffix."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


def last_checkpoint(run_dir: Path) -> Path:
    """The newest undamaged checkpoint, from which ``--ckpt_path last`` resumes.

    Raises:
        ValueError: The folder holds none.
    """
    folder = run_dir / "checkpoints"
    last = checkpoints.newest(folder)
    if last is None:
        raise ValueError(
            f"nothing to resume: {folder} holds no {checkpoints.LAST} that matches {checkpoints.HASHES}; "
            "start the run again without --ckpt_path"
        )
    return last


def refuse_place(run_dir: Path, data: Path, source: str = "") -> None:
    """Refuse a run folder that cannot be renamed by the next run, since it holds more than an earlier run.

    Args:
        run_dir: Folder of the run.
        data: Folder of the recordings.
        source: Source of the model, which may be a folder.

    Raises:
        OptionError: The folder holds the recordings, the model or the working directory.
    """
    place = run_dir.resolve()
    if place.is_file():
        raise OptionError(f"{place} is a file: name another --run_dir, such as runs/{data.resolve().name}")
    held = {"the recordings": data.resolve(), "the working directory": Path.cwd()}
    if source and Path(source).expanduser().exists():
        held["the model to start from"] = Path(source).expanduser().resolve()
    for what, path in held.items():
        if place in (path, *path.parents):
            raise OptionError(f"{place} holds {what}: name another --run_dir, such as runs/{data.resolve().name}")


@rank_zero_only
def set_aside(run_dir: Path) -> None:
    """Rename the folder of an earlier run, or of earlier seeds, if there is one."""
    if (run_dir / "config.yaml").exists() or (run_dir / "seeds.json").exists():
        kept = first_free(run_dir)
        run_dir.rename(kept)
        logger.info("%s held an earlier run; it is now %s", run_dir, kept)
