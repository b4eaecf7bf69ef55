"""``asr_lightning.specialize``: the run of the command of that name, from Python. Imports torch."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from asr_lightning.cli import lightning_cli
from asr_lightning.run.outcome import Outcome
from asr_lightning.run.spec import DEFAULT_MODEL, RunSpec, default_run_dir
from asr_lightning.training.logs import configure_logging


def specialize(
    data: str | os.PathLike[str],
    model: str = DEFAULT_MODEL,
    *,
    run_dir: str | os.PathLike[str] | None = None,
    language: str | None = None,
    epochs: int | None = None,
    seed: int = 0,
    budget: str | None = None,
    canary: str | None = None,
    accelerator: str | None = None,
    options: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Specialize a model on a folder of recordings; the same weights as by the command.

    What is left out is decided by the recipe of the model's family. Progress is logged to ``asr_lightning``, and is
    printed if the caller has set up no logging. Of several processes only the first one returns; the others exit here,
    with their part done.

    Args:
        data: Folder with ``<UID>.wav`` (or mp3, …) and ``<UID>.txt``.
        model: A name of ``python -m asr_lightning models``, or a folder.
        run_dir: Where everything goes; ``runs/<name of the folder>`` if None. An earlier run there is set aside.
        language: Of a multilingual model, such as ``de``.
        epochs: How long to train; models in folds share them.
        seed: Another seed gives another run.
        budget: Time for everything, such as ``5m``.
        canary: Folder of other people's speech that must not suffer; ``bundled``, or ``off``.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        options: Any others of ``fit``, nested as in its configuration files.
        callbacks: Your own, called before all others while training. In folds the same ones serve every fold.

    Raises:
        ValueError: Something is wrong with the recordings, the model or an option; the message says what to do.
    """
    spec = RunSpec(
        data=Path(data),
        run_dir=Path(run_dir) if run_dir is not None else default_run_dir(Path(data)),
        model=model,
        language=language,
        epochs=epochs,
        seed=seed,
        budget=budget,
        canary=canary,
        accelerator=accelerator,
        options=options or {},
    )
    if not logging.getLogger("asr_lightning").hasHandlers():
        configure_logging()
    outcome = lightning_cli.run(spec, callbacks=callbacks).outcome
    if outcome is None:
        sys.exit(0)
    return replace(outcome, run_dir=outcome.run_dir.resolve())
