"""``asr_lightning.specialize``, which does from Python what the command of that name does. Imports torch."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lightning.pytorch.callbacks import Callback

from asr_lightning.cli import lightning_cli
from asr_lightning.errors import OptionError
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
    export: str | None = None,
    accelerator: str | None = None,
    options: Mapping[str, object] | None = None,
    callbacks: Sequence[Callback] | Callback | None = None,
) -> Outcome:
    """Specialize a model on a folder of recordings; gives the same weights as the command.

    The recipe of the model's family decides every option that is left out. Progress is logged to ``asr_lightning``, and
    is printed if the caller has set up no logging. With several processes this returns in the first one only: the
    others exit when their part is done.

    Args:
        data: Folder with ``<UID>.wav`` (or mp3, …) and ``<UID>.txt``.
        model: A name that ``python -m asr_lightning models`` lists, or a folder.
        run_dir: Folder for everything that the run writes; None takes ``runs/<name of the data folder>``. An earlier
            run in it is renamed, not overwritten.
        language: Language that a multilingual model reads, such as ``de``.
        epochs: Number of epochs; models in folds share them.
        seed: Seed of every random choice.
        budget: Time for the whole run, such as ``5m``.
        canary: Folder of other people's speech, which the model must not unlearn; or ``bundled``, or ``off``.
        export: Formats that the model is exported to, such as ``ctranslate2,ggml:q5_1``; ``exports`` in the run folder
            holds those that read as well as the model itself.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        options: Any other options of ``fit``, nested as in its configuration files.
        callbacks: The caller's own callbacks, or one; called before all others during training. In folds, every fold
            uses the same ones.

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
        export=export,
        accelerator=accelerator,
        options=options or {},
    )
    return run_spec(spec, callbacks)


def run_spec(spec: RunSpec, callbacks: Sequence[Callback] | Callback | None = None) -> Outcome:
    """Carry out the run that ``spec`` describes, as ``specialize`` does.

    Args:
        spec: The run. Its ``resume`` goes on with an earlier one.
        callbacks: The caller's own callbacks, or one; called before all others during training.

    Raises:
        ValueError: Something is wrong with the recordings, the model or an option; the message says what to do.
    """
    callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
    if wrong := [callback for callback in callbacks if not isinstance(callback, Callback)]:
        raise OptionError(f"callbacks holds {wrong[0]!r}: give instances of Lightning's Callback", "callbacks")
    if not logging.getLogger("asr_lightning").hasHandlers():
        configure_logging()
    outcome = lightning_cli.run(spec, callbacks=callbacks).outcome
    if outcome is None:
        sys.exit(0)
    return replace(outcome, run_dir=outcome.run_dir.resolve())
