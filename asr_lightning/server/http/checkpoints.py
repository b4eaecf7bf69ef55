"""Names and sizes of a job's checkpoints, without opening one. Loads no torch."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

from asr_lightning.job_folder import layout

SUFFIX = ".ckpt"


def listing(folder: Path) -> list[dict[str, object]]:
    """The name and size of each checkpoint of the job in ``folder``."""
    paths = sorted((folder / layout.RUN / "checkpoints").glob(f"*{SUFFIX}"))
    listed: list[dict[str, object]] = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # the training has just replaced it
            status = path.lstat()
            if stat.S_ISREG(status.st_mode):
                listed.append({"name": path.name, "size": status.st_size})
    return listed
