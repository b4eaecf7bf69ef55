"""A folder that behaves like a rented volume: versions that are whole, a working copy, and commits of one step.

``VOLUME/now`` is a link to the last version. A file in a version is never changed, so the next version shares it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

NOW, VERSIONS = "now", "versions"
TRASH = ".trash"


def create(folder: Path) -> None:
    """Make an empty volume; half of one, which a kill left, is deleted like a whole one.

    Raises:
        OSError: It exists, or cannot be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(mode=0o700)
    (folder / VERSIONS / "0").mkdir(parents=True, mode=0o700)
    (folder / NOW).symlink_to(f"{VERSIONS}/0")


def committed(folder: Path) -> Path:
    """The last version; it stays until the version after the next."""
    return folder / (folder / NOW).readlink()


def read(folder: Path, path: str, offset: int) -> bytes | None:
    """Bytes of a file of the last version; None where there is none."""
    try:
        with (committed(folder) / path).open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return None


def put(folder: Path, source: Path, target: str) -> None:
    """Copy ``source`` into the last version."""
    path = committed(folder) / target
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    shutil.copyfile(source, fresh)
    fresh.replace(path)


def check_out(folder: Path, work: Path) -> None:
    """Make ``work`` a copy of the last version, whatever it was."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(committed(folder), work)


def commit(folder: Path, work: Path) -> None:
    """Make the next version from ``work``.

    Raises:
        OSError: The volume is gone, or the disk is full; the last version is untouched.
    """
    before = committed(folder)
    number = int(before.name) + 1
    fresh = folder / VERSIONS / str(number)
    shutil.rmtree(fresh, ignore_errors=True)  # of a commit that was killed
    fresh.mkdir(mode=0o700)  # fails where the volume is deleted
    for path in sorted(work.rglob("*")):
        target, known = fresh / path.relative_to(work), before / path.relative_to(work)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif path.is_file() and not path.is_symlink():
            _copy(path, known, target)
    link = folder / f".{NOW}.{secrets.token_hex(4)}"
    link.symlink_to(f"{VERSIONS}/{number}")
    link.replace(folder / NOW)
    shutil.rmtree(folder / VERSIONS / str(number - 2), ignore_errors=True)


def _copy(path: Path, known: Path, target: Path) -> None:
    found = path.stat()
    try:
        before = known.stat()
    except FileNotFoundError:
        before = None
    if before and (before.st_size, before.st_mtime_ns) == (found.st_size, found.st_mtime_ns):
        os.link(known, target)
    else:
        shutil.copy2(path, target)


def remove(folder: Path) -> None:
    """Delete the volume in one step, then its bytes and those of earlier deletions that were cut off."""
    trash = folder.parent / TRASH
    if folder.exists():
        trash.mkdir(parents=True, exist_ok=True)
        folder.rename(trash / f"{folder.name}.{secrets.token_hex(4)}")
    shutil.rmtree(trash, ignore_errors=True)
