"""Writes and reads the two checkpoints of a run with their hashes, so that a run can be resumed after any crash.

A checkpoint is read only if this run has recorded its hash, and then only as weights, whatever Lightning asks for:
Lightning 2.4 would unpickle any object, which can execute code (such as CVE-2025-32434). Knows no model.
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
MAX_HASHES = 16  # two are in use, and each crash between recording a hash and renaming the file leaves one more


class HashMismatchError(ValueError):
    """A checkpoint was not written by this run, or has changed since."""


class VerifiedCheckpoints(CheckpointIO):
    """Writes checkpoints and flushes them to the disk; reads only those whose hash is recorded beside them."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``. It has no hash yet, so it cannot be read before ``rotate`` is called."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # above all a full disk, of which half a checkpoint would take much
            path.unlink(missing_ok=True)
            raise

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read ``path`` to the CPU as weights only; the other arguments are Lightning's and change nothing.

        Raises:
            HashMismatchError: This run did not write the file, or it has changed since.
        """
        path = Path(path)
        with path.open("rb") as file:
            if sha256_of(file) not in recorded_hashes(path.parent):
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
    """Hex digest of the rest of ``file``, from its current position."""
    return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def sha256_at(path: Path) -> str:
    """Hex digest of the file at ``path``."""
    with path.open("rb") as file:
        return sha256_of(file)


def recorded_hashes(folder: Path) -> list[str]:
    """Hashes of the checkpoints that a run has written into ``folder``, newest first."""
    content = read_json(folder / HASHES) or {}
    return [str(digest) for digest in content.get("sha256", ())]


def rotate(folder: Path) -> None:
    """Rename ``last.ckpt`` to ``previous.ckpt``, and ``new.ckpt`` to ``last.ckpt``.

    The new hash is recorded first, so a crash between any two steps leaves at least one checkpoint that can be read.
    """
    fresh, last = folder / FRESH, folder / LAST
    digest = sha256_at(fresh)
    write_json(folder / HASHES, {"sha256": [digest, *(d for d in recorded_hashes(folder) if d != digest)][:MAX_HASHES]})
    faults.point("training.checkpoint.recorded")
    if last.exists():
        last.replace(folder / PREVIOUS)
    faults.point("training.checkpoint.rotated")
    fresh.replace(last)
    sync_folder(folder)
    faults.point("training.checkpoint.kept")


def newest(folder: Path) -> Path | None:
    """The newest undamaged checkpoint in ``folder``; None if there is none.

    A damaged checkpoint is renamed, so that ``rotate`` never replaces an undamaged one with it.
    """
    hashes = recorded_hashes(folder)
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
