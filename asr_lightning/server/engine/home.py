"""The folder that holds all files of a server, its locks, and deletion that leaves nothing behind."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from types import TracebackType

from asr_lightning.durable import faults
from asr_lightning.durable.files import sync_folder
from asr_lightning.durable.locks import take_lock
from asr_lightning.server.engine.errors import DiskFullError, HomeError

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "lustre"}
)


class Home:
    """``$ASR_HOME``, which only this user can read. It is made if it is missing.

    Raises:
        HomeError: The path is on a network file system, belongs to another user, or is not a folder.
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
        if kind in NETWORK_FILE_SYSTEMS:
            # Neither SQLite's WAL nor flock is dependable there: https://sqlite.org/wal.html
            raise HomeError(f"{self.path} is on a network file system ({kind}): put --home on a local disk")

    @property
    def store(self) -> Path:
        """The file of the job store."""
        return self.path / "state.db"

    @property
    def uploads(self) -> Path:
        """The folder of request bodies that are still arriving."""
        return self.path / "uploads"

    @property
    def trash(self) -> Path:
        """The folder of files that are being deleted."""
        return self.path / "trash"

    def job(self, job_id: str) -> Path:
        """The folder of a job."""
        return self.path / "jobs" / job_id

    def jobs(self) -> list[Path]:
        """The folders of all jobs."""
        return sorted(path for path in (self.path / "jobs").iterdir() if path.is_dir() and not path.is_symlink())

    def lock(self, name: str, patience_s: float = 0.0) -> int | None:
        """A descriptor that holds the lock ``name``; None if another process holds it for ``patience_s`` seconds."""
        deadline = time.monotonic() + patience_s
        while (lock := take_lock(self.path / name)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return lock

    def require_space(self, min_free: int) -> None:
        """Require that ``min_free`` bytes are free on the disk.

        Raises:
            DiskFullError: Fewer bytes are free.
        """
        free = shutil.disk_usage(self.path).free
        if free < min_free:
            reserved = f"{min_free >> 20} are kept free"
            raise DiskFullError(
                errno.ENOSPC, f"only {free >> 20} MiB are free on the server's disk and {reserved}: delete old jobs"
            )

    def discard(self, path: Path) -> None:
        """Delete ``path`` with everything in it: one rename removes it from its place, then its bytes are removed."""
        target = self.trash / f"{path.name}.{os.urandom(4).hex()}"
        try:
            path.rename(target)
        except FileNotFoundError:
            return
        sync_folder(path.parent)
        faults.point("purge.renamed")
        self.empty_trash()

    def empty_trash(self) -> None:
        """Delete everything in the trash; several threads may do so at the same time."""
        for path in self.trash.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, onerror=_unless_missing)
            else:
                path.unlink(missing_ok=True)
            faults.point("purge.removed")

    def sizes(self, path: Path) -> dict[str, int]:
        """The size in bytes of each file under ``path``, by its path relative to the home."""
        files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
        return {str(file.relative_to(self.path)): file.stat().st_size for file in sorted(files)}


def _unless_missing(
    _function: object, _path: str, error: tuple[type[BaseException], BaseException, TracebackType]
) -> None:
    if not isinstance(error[1], FileNotFoundError):
        raise error[1]


def file_system(path: Path) -> str:
    """The type of the file system that ``path`` is on; empty if this system does not list its mounts."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return ""
    longest, kind = "", ""
    for line in mounts.read_text(encoding="utf-8").splitlines():
        _, mount_point, mounted, *_ = line.split()
        mount_point = mount_point.replace("\\040", " ")
        if path.resolve().is_relative_to(mount_point) and len(mount_point) >= len(longest):
            longest, kind = mount_point, mounted
    return kind
