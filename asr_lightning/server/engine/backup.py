"""Copy a home to another folder while its server runs, so that a server could start on the copy."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from asr_lightning.durable.owners import keep_owner
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.digests import digest_of
from asr_lightning.server.engine import states
from asr_lightning.server.engine.errors import HomeError
from asr_lightning.server.engine.names import LOCK, RESERVE, STORE, STORE_FILES
from asr_lightning.server.engine.store import Store

FOLDERS = ("uploads", "trash", "locks")
"""What is empty in a copy, and is there so that the copy is a home like any other."""
LEFT_OUT = frozenset({*STORE_FILES, LOCK, *FOLDERS, RESERVE, "tensorboard", "tensorboard.log"})
"""What a server makes anew; the files of the store belong together, and are copied in another way."""


@dataclass(frozen=True)
class Backup:
    """A copy of a home.

    Attributes:
        jobs: Number of jobs in it.
        bytes: Size of its files.
        damaged: Artifacts whose hashes are not those of their jobs, relative to the copy.
    """

    jobs: int
    bytes: int
    damaged: list[str]


def back_up(home: Path, target: Path) -> Backup:
    """Copy ``home`` to ``target``, which appears when it is complete.

    The store is copied first. So no job that it lists is missing, and one that is added meanwhile has a folder, from
    which it is taken up. A job that is running continues in the copy from its last whole checkpoint.

    Raises:
        HomeError: ``target`` exists or is inside the home, or the job store is damaged.
        OSError: Something cannot be read or written.
    """
    home, target = home.resolve(), target.expanduser().absolute()
    if target.resolve().is_relative_to(home):
        raise HomeError(f"{target} is inside the home {home}: name a folder elsewhere, best on another disk")
    if target.exists() or target.is_symlink():
        raise HomeError(f"{target} exists: name a new folder for each backup")
    partial = target.with_name(f".{target.name}.{os.urandom(4).hex()}.partial")
    partial.mkdir(parents=True, mode=0o700)
    try:
        if (home / STORE).exists():
            _copy_store(home / STORE, partial / STORE)
        for path in sorted(home.iterdir()):
            if path.name not in LEFT_OUT:
                _copy(path, partial / path.name)
        for name in FOLDERS:
            (partial / name).mkdir(mode=0o700)
        (partial / LOCK).touch(mode=0o600)
        for path in (partial, *(partial / name for name in (*FOLDERS, LOCK, STORE) if (partial / name).exists())):
            keep_owner(home, path)
        backup = _checked(partial)
        os.sync()
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return backup


def _copy_store(source: Path, target: Path) -> None:
    """Copy the store as of one moment, with what is still in its write-ahead log."""
    try:
        with closing(sqlite3.connect(source)) as connection, closing(sqlite3.connect(target)) as copy:
            connection.backup(copy)
    except sqlite3.Error as error:
        raise HomeError(
            f"{source} cannot be copied ({error}). If it is damaged, stop the server and start it again, which makes "
            "it anew from the jobs' folders; then back up again"
        ) from error
    target.chmod(0o600)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or folder with its modes and times, links as links. What vanishes meanwhile is left out."""
    try:
        if source.is_dir() and not source.is_symlink():
            target.mkdir(mode=0o700)
            for path in sorted(source.iterdir()):
                _copy(path, target / path.name)
            shutil.copystat(source, target)
            keep_owner(source, target)
        elif source.is_file() or source.is_symlink():
            shutil.copy2(source, target, follow_symlinks=False)
            keep_owner(source, target)
    except FileNotFoundError:
        if source.exists():
            raise


def _checked(copy: Path) -> Backup:
    """What is in ``copy``, after a comparison of all artifacts with the hashes that their jobs state."""
    jobs, damaged = [], []
    if (copy / STORE).exists():
        store = Store(copy / STORE)
        jobs = store.jobs(states.STATES - {states.PURGED})
        store.close()
    for job in jobs:
        for name, digest in sorted(job.artifacts.items()):
            path = copy / "jobs" / job.id / layout.ARTIFACTS / name
            if digest_of(path) != digest:
                damaged.append(str(path.relative_to(copy)))
    size = sum(path.lstat().st_size for path in copy.rglob("*") if path.is_file())
    return Backup(len(jobs), size, damaged)
