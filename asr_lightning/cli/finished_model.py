"""The model of a finished run, as ``validate`` and ``test`` read it. Loads no model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from asr_lightning.adapters import saved
from asr_lightning.run import folds
from asr_lightning.run.folder import kept_untouched, tested_out_of_fold
from asr_lightning.run.lock import RunLock

logger = logging.getLogger(__name__)


def prepare(command: str, options: Any, run_dir: Path) -> None:
    """Make ``options`` load the model that ``run_dir`` holds, or refuse a command that has nothing to score there.

    Args:
        command: ``validate`` or ``test``.
        options: The parsed options of the command; for ``validate`` those of the adapter are changed.
        run_dir: Folder of the run.

    Raises:
        ValueError: The run has no model, or no clips of its own that the command could score.
    """
    model_dir = run_dir / "model"
    if not model_dir.is_dir():
        raise ValueError(f"{run_dir} holds no model: run fit first, or name another --run_dir")
    if tested_out_of_fold(run_dir):
        raise ValueError(
            f"{run_dir} has no clips that its model was not trained on, so {command} has nothing to score: the figures "
            f"out of fold are in {run_dir / 'results.json'} and {run_dir / 'report.html'}; to see more, record new "
            f"clips and transcribe them with: python -m asr_lightning predict FOLDER --model {model_dir}"
        )
    if command == "test":
        RunLock(run_dir).refuse_if_held()  # it writes to the folder
        return
    init_args = options.model.adapter.init_args
    init_args.source = str(model_dir)
    if kept_untouched(run_dir) and (record := saved.record(model_dir)):
        # The untouched model is read as its makers do, and not in the mode that this run would have trained.
        init_args.update(Namespace(**record.init_args))
    if folds.finished(run_dir):
        logger.warning("this model was trained in folds, on the dev clips too: results.json has dev out of fold")
