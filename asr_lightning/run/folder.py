"""The folder of a run: its configuration, its logs and the checkpoint to resume from.

Nothing in it is overwritten: a new run renames the folder of an earlier one, and a new choice moves earlier results.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from asr_lightning.durable.files import read_json
from asr_lightning.errors import OptionError
from asr_lightning.training import checkpoints

logger = logging.getLogger(__name__)

RESULTS = (
    "model",
    "report.html",
    "report.md",
    "report.json",
    "test_transcripts.csv",
    "test.json",
    "results.json",
)
"""What a finished run hands over, in the order in which it is set aside."""


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


def kept_untouched(run_dir: Path) -> bool:
    """Whether the finished run in ``run_dir`` handed over the untouched model; False if there is no such run."""
    results = read_json(run_dir / "results.json")
    return results is not None and results.get("alpha") == 0


def tested_out_of_fold(run_dir: Path) -> bool:
    """Whether the finished run in ``run_dir`` had no test split of its own; False if there is no such run."""
    results = read_json(run_dir / "results.json")
    return results is not None and results.get("out_of_fold") is True


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


def set_aside_results(run_dir: Path) -> None:
    """Move the model and the report of a finished run to ``earlier`` in its folder, since they are made anew.

    A run that was killed before it had results has none to keep. ``results.json``, which tells a finished run, is moved
    last, so that a kill in between leaves nothing that is later taken for unfinished.
    """
    if not (run_dir / RESULTS[-1]).exists():
        return
    kept = run_dir / "earlier"
    while (kept / RESULTS[-1]).exists():
        kept = first_free(kept)
    kept.mkdir(exist_ok=True)
    for name in RESULTS:
        if (run_dir / name).exists():
            (run_dir / name).rename(kept / name)
    logger.info("%s held an earlier choice of weights; its model and report are now in %s", run_dir, kept)


def write_anew(path: Path, write: Callable[[Path], None]) -> None:
    """Make ``path`` with ``write``; a file with other content that is there is renamed, not overwritten."""
    fresh = path.with_name(f".{path.name}.new")
    write(fresh)
    if path.exists() and path.read_bytes() != fresh.read_bytes():
        path.rename(kept := first_free(path))
        logger.info("%s had other content; it is now %s", path, kept)
    fresh.replace(path)


@rank_zero_only
def set_aside(run_dir: Path) -> None:
    """Rename the folder of an earlier run, or of earlier seeds, finished or not, if there is one."""
    if any(path for name in ("config.yaml", "seeds.json", "seed-*/config.yaml") for path in run_dir.glob(name)):
        kept = first_free(run_dir)
        run_dir.rename(kept)
        logger.info("%s held an earlier run; it is now %s", run_dir, kept)
