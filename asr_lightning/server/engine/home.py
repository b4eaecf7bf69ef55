"""The folder that holds everything of a server, its lock, and deletion that leaves nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

from asr_lightning.durable import faults
from asr_lightning.durable.files import FULL, sync_folder
from asr_lightning.durable.locks import take_lock
from asr_lightning.server.engine.errors import DiskFullError, HomeError

NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "lustre"})


class Home:
    """``$ASR_HOME``: made where it is missing, private to this user.

    Raises:
        HomeError: It cannot be used: a network file system, somebody else's, no folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
            for name in ("uploads", "locks", "jobs", "trash"):
                (self.path / name).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise HomeError(
                f"{self.path} cannot be the server's home ({error.strerror}): name another --home"
            ) from error
        kind = file_system(self.path)
        if kind in NETWORK:
            # Neither SQLite's WAL nor flock is dependable there: https://sqlite.org/wal.html
            raise HomeError(f"{self.path} is on a network file system ({kind}): put --home on a local disk")

    @property
    def store(self) -> Path:
        """The store's file."""
        return self.path / "state.db"

    @property
    def uploads(self) -> Path:
        """Bodies that are still arriving."""
        return self.path / "uploads"

    @property
    def trash(self) -> Path:
        """What is being deleted."""
        return self.path / "trash"

    def job(self, job_id: str) -> Path:
        """The folder of a job that the store knows."""
        return self.path / "jobs" / job_id

    def jobs(self) -> list[Path]:
        """Every job's folder."""
        return sorted(path for path in (self.path / "jobs").iterdir() if path.is_dir() and not path.is_symlink())

    def lock(self, name: str, patience_s: float = 0.0) -> int | None:
        """A descriptor that holds the lock ``name``; None where another process does for ``patience_s`` seconds."""
        deadline = time.monotonic() + patience_s
        while (found := take_lock(self.path / name)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def check_space(self, least: int) -> None:
        """Raise ``DiskFullError`` where less than ``least`` bytes are free."""
        free = shutil.disk_usage(self.path).free
        if free < least:
            raise DiskFullError(
                errno.ENOSPC,
                f"only {free >> 20} MiB are free on the server's disk and {least >> 20} are kept free: delete old jobs",
            )

    def discard(self, path: Path) -> None:
        """Delete ``path`` with all it holds: one rename makes it gone, then its bytes are removed."""
        target = self.trash / f"{path.name}.{os.urandom(4).hex()}"
        try:
            path.rename(target)
        except FileNotFoundError:
            return
        sync_folder(path.parent)
        faults.point("purge.renamed")
        self.empty_trash()

    def empty_trash(self) -> None:
        """Remove what is in it; several threads may do so at once."""
        for path in self.trash.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, onerror=_unless_missing)
            else:
                path.unlink(missing_ok=True)
            faults.point("purge.removed")

    def sizes(self, path: Path) -> dict[str, int]:
        """Bytes of each file under ``path``, by its name relative to the home."""
        files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
        return {str(file.relative_to(self.path)): file.stat().st_size for file in sorted(files)}


def _unless_missing(_function: Any, _path: str, error: Any) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def file_system(path: Path) -> str:
    """Kind of the file system that ``path`` is on; empty where the system does not tell."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return ""
    best, kind = "", ""
    for line in mounts.read_text(encoding="utf-8").splitlines():
        _, point, found, *_ = line.split()
        point = point.replace("\\040", " ")
        if path.resolve().is_relative_to(point) and len(point) >= len(best):
            best, kind = point, found
    return kind


def is_full(error: BaseException) -> bool:
    """Whether ``error`` says that the disk is full."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return isinstance(error, sqlite3.OperationalError) and "disk is full" in str(error)
