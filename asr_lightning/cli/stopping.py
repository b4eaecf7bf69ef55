"""How a training that was stopped goes on: after Ctrl-C, SIGTERM or a full disk. Loads no torch."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asr_lightning.errors import OptionError
from asr_lightning.job_folder import failure

PAST_THE_END = re.compile(r"restored a checkpoint with current_epoch=(\d+).*max_epochs=(\d+)", re.DOTALL)
"""What Lightning 2.4 and 2.6 say of a checkpoint that is further than ``trainer.max_epochs``."""
KEPT = ("checkpoints/last.ckpt", "checkpoints/previous.ckpt", "checkpoints/folds/*.safetensors")
"""What a run can go on from."""


class RunStoppedError(KeyboardInterrupt):
    """The user stopped a run; the message says what is kept of it, and how it goes on."""


@contextmanager
def explained(run_dir: Path, resumed: bool) -> Iterator[None]:
    """Say how the run in ``run_dir`` goes on if it is stopped inside this context.

    SIGTERM and a full disk keep their exceptions, to which the explanation is added as a note.

    Args:
        run_dir: Folder of the run.
        resumed: Whether the run was resumed, so that what it had at its start is kept too.

    Raises:
        RunStoppedError: In place of ``KeyboardInterrupt``, and of the ``SystemExit`` that Lightning makes of it.
        OptionError: The run is to end before the epoch of its checkpoint.
    """
    since = 0.0 if resumed else time.time()
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            raise RunStoppedError(f"stopped. {_how_to_go_on(run_dir, since)}") from stop
        if is_sigterm(stop):
            stop.add_note(_how_to_go_on(run_dir, since))
        raise
    except Exception as error:
        if past := PAST_THE_END.search(str(error)):
            trained = int(past[1]) + 1
            raise OptionError(
                f"the run in {run_dir} has trained {trained} epochs already, and cannot end after {past[2]}: give "
                f"--trainer.max_epochs {trained} or more",
                "epochs",
            ) from error
        if failure.full_disk_of(error):
            error.add_note(_how_to_go_on(run_dir, since))
        raise


def is_sigterm(error: BaseException) -> bool:
    """Whether ``error`` is what Lightning, 2.4 and 2.6, raises after SIGTERM."""
    return type(error).__name__ == "SIGTERMException"


def _how_to_go_on(run_dir: Path, since: float) -> str:
    kept = [path for pattern in KEPT for path in run_dir.glob(pattern) if path.stat().st_mtime >= since - 1]
    if not kept:
        return "Nothing was trained to the end of an epoch yet: give the same command again"
    return f"{run_dir} keeps what was trained: add --ckpt_path last to the same command, and it goes on from there"
