"""The folder that holds all files of a server, its locks, and deletion that leaves nothing behind."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from pathlib import Path
from types import TracebackType

from asr_lightning.durable import faults, journal
from asr_lightning.durable.files import sync_folder
from asr_lightning.durable.locks import take_lock
from asr_lightning.server.engine import names
from asr_lightning.server.engine.claim import claim
from asr_lightning.server.engine.errors import DiskFullError, HomeError
from asr_lightning.server.engine.records import now

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "9p", "afs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "lustre"}
)
DISCARDED = re.compile(r".+\.[0-9a-f]{8}")
"""The names that ``discard`` gives to what it moves to the trash."""


class Home:
    """``$ASR_HOME``. It is made if it is missing; only this user can read what a server writes there.

    Raises:
        HomeError: The path is on a network file system, belongs to another user, is not a folder, or holds files of
            others (``claim``).
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        kind = file_system(self.path)
        if kind in NETWORK_FILE_SYSTEMS:
            # Neither SQLite's WAL nor flock is dependable there: https://sqlite.org/wal.html
            raise HomeError(f"{self.path} is on a network file system ({kind}): put --home on a local disk")
        try:
            claim(self.path)
        except HomeError:
            raise
        except OSError as error:
            raise HomeError(
                f"{self.path} cannot be the server's home ({error.strerror}): name another --home"
            ) from error

    @property
    def store(self) -> Path:
        """The file of the job store."""
        return self.path / names.STORE

    @property
    def uploads(self) -> Path:
        """The folder of request bodies that are still arriving."""
        return self.path / "uploads"

    @property
    def trash(self) -> Path:
        """The folder of files that are being deleted."""
        return self.path / "trash"

    @property
    def quarantine(self) -> Path:
        """The folder of what could not be used and must not be deleted."""
        return self.path / "quarantine"

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

    def set_aside(self, path: Path, reason: str) -> str:
        """Move ``path`` to the quarantine, from which nothing is ever deleted; returns a sentence that says so."""
        target = self.quarantine / f"{path.name}.{os.urandom(4).hex()}"
        path.rename(target)
        sync_folder(path.parent)
        place = path.relative_to(self.path)
        entry = {"name": target.name, "place": str(place), "time": now(), "why": reason}
        with contextlib.suppress(OSError):  # on a full disk, the log alone says it
            journal.append(self.quarantine / "reasons.jsonl", [entry])
        return f"{place} was moved to {target}: {reason}"

    def set_store_aside(self) -> Path:
        """Move a damaged store to a name beside it, with its write-ahead log; returns where it is now."""
        target = self.path / f"{names.DAMAGED_STORE}.{os.urandom(4).hex()}"
        for suffix in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                self.store.with_name(f"{self.store.name}{suffix}").rename(target.with_name(f"{target.name}{suffix}"))
        sync_folder(self.path)
        return target

    def empty_trash(self) -> None:
        """Delete what was discarded; several threads may do so at the same time."""
        for path in self.trash.iterdir():
            if not DISCARDED.fullmatch(path.name):
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, onerror=_unless_missing)
            else:
                path.unlink(missing_ok=True)
            faults.point("purge.removed")

    def sizes(self, path: Path) -> dict[str, int]:
        """The size in bytes of each file under ``path``, by its path relative to the home."""
        files = [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
        # A name need not be UTF-8, as an answer must be.
        names = {file: str(file.relative_to(self.path)).encode("utf-8", "backslashreplace").decode() for file in files}
        return {names[file]: file.stat().st_size for file in sorted(files)}


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
