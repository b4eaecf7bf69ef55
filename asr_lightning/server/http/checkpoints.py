"""What is known of a job's checkpoints without opening one. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SUFFIX = ".ckpt"


def listing(folder: Path) -> list[dict[str, Any]]:
    """Name and size of each checkpoint of the job in ``folder``."""
    found = []
    for path in sorted((folder / "run" / "checkpoints").glob(f"*{SUFFIX}")):
        if path.is_file() and not path.is_symlink():
            found.append({"name": path.name, "size": path.stat().st_size})
    return found


def checks(progress: dict[str, Any] | None) -> list[dict[str, Any]]:
    """Epoch, step, WER and loss at each check of the training, as the trainer told them."""
    told = (progress or {}).get("checks")
    return [check for check in told if isinstance(check, dict)] if isinstance(told, list) else []
