"""The two checkpoints of a run, each with its hash: what a crash at any moment leaves can be resumed from.

A checkpoint is read only if its hash is one that this run wrote down, and then as weights only, whatever Lightning
would do: 2.4 unpickles any object (CVE-2025-32434 and its like, docs/server.md T14). Knows no model.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from asr_lightning.durable import faults
from asr_lightning.durable.files import read_json, sync_folder, write_json

logger = logging.getLogger(__name__)

LAST, PREVIOUS, FRESH, HASHES = "last.ckpt", "previous.ckpt", "new.ckpt", "hashes.json"
REMEMBERED = 16  # hashes: two are in use, each crash between a hash and its rename leaves one more


class HashMismatchError(ValueError):
    """A file is not one that this run wrote, or not as it wrote it."""


class CheckedCheckpoints(CheckpointIO):
    """Writes checkpoints through to the disk, and reads none whose hash is not beside it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``; it has no hash yet, and so cannot be read before ``adopt``."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read ``path`` to the CPU, as weights only: both options are Lightning's and change nothing.

        Raises:
            HashMismatchError: The file is not one that this run wrote.
        """
        path = Path(path)
        with path.open("rb") as file:
            if sha256_of(file) not in known(path.parent):
                raise HashMismatchError(
                    f"{path} does not match {path.parent / HASHES}: it is damaged, or another program wrote it. "
                    "Resume with --ckpt_path last, which takes the newest whole one"
                )
            file.seek(0)
            content: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
            return content

    def remove_checkpoint(self, path: Any) -> None:
        """Delete ``path``."""
        Path(path).unlink(missing_ok=True)


def sha256_of(file: IO[bytes]) -> str:
    """Hex digest of what is left to read of ``file``."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def sha256_at(path: Path) -> str:
    """Hex digest of the file ``path``."""
    with path.open("rb") as file:
        return sha256_of(file)


def known(folder: Path) -> list[str]:
    """Hashes of the checkpoints that a run wrote into ``folder``, newest first."""
    found = read_json(folder / HASHES) or {}
    return [str(digest) for digest in found.get("sha256", ())]


def adopt(folder: Path) -> None:
    """Make ``new.ckpt`` the last checkpoint and the last one the previous.

    Its hash is written first. A crash between any two steps leaves at least one checkpoint that matches.
    """
    fresh, last = folder / FRESH, folder / LAST
    digest = sha256_at(fresh)
    write_json(folder / HASHES, {"sha256": [digest, *(d for d in known(folder) if d != digest)][:REMEMBERED]})
    faults.point("training.checkpoint.recorded")
    if last.exists():
        last.replace(folder / PREVIOUS)
    faults.point("training.checkpoint.rotated")
    fresh.replace(last)
    sync_folder(folder)
    faults.point("training.checkpoint.kept")


def newest(folder: Path) -> Path | None:
    """The newest checkpoint in ``folder`` that is whole; None where there is none.

    One that is damaged is put aside, so that it never takes the place of a whole one.
    """
    hashes = known(folder)
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.is_file():
            continue
        if sha256_at(path) in hashes:
            if name == PREVIOUS:
                logger.warning("resuming from the checkpoint before the last: %s", path)
            return path
        logger.warning("%s is damaged: its hash is not in %s; put aside as %s", path, HASHES, _broken(path).name)
        _set_aside(path)
    return None


def _broken(path: Path) -> Path:
    return path.with_name(path.name + ".broken")


@rank_zero_only
def _set_aside(path: Path) -> None:
    path.replace(_broken(path))
