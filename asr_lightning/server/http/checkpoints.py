"""Names and sizes of a job's checkpoints, without opening one. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from asr_lightning.job_folder import layout

SUFFIX = ".ckpt"


def listing(folder: Path) -> list[dict[str, object]]:
    """The name and size of each checkpoint of the job in ``folder``."""
    paths = sorted((folder / layout.RUN / "checkpoints").glob(f"*{SUFFIX}"))
    return [
        {"name": path.name, "size": path.stat().st_size} for path in paths if path.is_file() and not path.is_symlink()
    ]
