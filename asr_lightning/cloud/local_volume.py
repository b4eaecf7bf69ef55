"""A folder that behaves like a rented volume: writers change a working copy, and readers see only whole commits.

``VOLUME/now`` is a link to the latest version. Files of a version never change, so that the next version can share them
by hard links.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

NOW, VERSIONS = "now", "versions"
TRASH = ".trash"


def create(folder: Path) -> None:
    """Create an empty volume. One that was left half created can be deleted like any other.

    Raises:
        OSError: It exists, or cannot be created.
    """
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(mode=0o700)
    (folder / VERSIONS / "0").mkdir(parents=True, mode=0o700)
    (folder / NOW).symlink_to(f"{VERSIONS}/0")


def committed(folder: Path) -> Path:
    """Folder of the latest version; it stays until two further versions have been committed."""
    return folder / (folder / NOW).readlink()


def read(folder: Path, path: str, offset: int) -> bytes | None:
    """Bytes of a file of the latest version from ``offset`` on; None if there is no such file."""
    try:
        with (committed(folder) / path).open("rb") as file:
            file.seek(offset)
            return file.read()
    except FileNotFoundError:
        return None


def put(folder: Path, source: Path, target: str) -> None:
    """Copy the file ``source`` to ``target`` in the latest version."""
    path = committed(folder) / target
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    shutil.copyfile(source, fresh)
    fresh.replace(path)


def check_out(folder: Path, work: Path) -> None:
    """Replace ``work`` by a copy of the latest version."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(committed(folder), work)


def commit(folder: Path, work: Path) -> None:
    """Make the content of ``work`` the next version.

    Raises:
        OSError: The volume was deleted, or the disk is full; the latest version stays as it is.
    """
    before = committed(folder)
    number = int(before.name) + 1
    fresh = folder / VERSIONS / str(number)
    shutil.rmtree(fresh, ignore_errors=True)  # left by a commit that was killed
    fresh.mkdir(mode=0o700)  # fails if the volume was deleted
    for path in sorted(work.rglob("*")):
        target, previous = fresh / path.relative_to(work), before / path.relative_to(work)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        elif path.is_file() and not path.is_symlink():
            _link_or_copy(path, previous, target)
    link = folder / f".{NOW}.{secrets.token_hex(4)}"
    link.symlink_to(f"{VERSIONS}/{number}")
    link.replace(folder / NOW)
    shutil.rmtree(folder / VERSIONS / str(number - 2), ignore_errors=True)


def _link_or_copy(path: Path, previous: Path, target: Path) -> None:
    """Make ``target`` a link to the file of the previous version if ``path`` equals it, otherwise a copy."""
    now = path.stat()
    try:
        before = previous.stat()
    except FileNotFoundError:
        before = None
    if before and (before.st_size, before.st_mtime_ns) == (now.st_size, now.st_mtime_ns):
        os.link(previous, target)
    else:
        shutil.copy2(path, target)


def remove(folder: Path) -> None:
    """Delete the volume in one step by renaming it, then free its space and that of earlier interrupted deletions."""
    trash = folder.parent / TRASH
    if folder.exists():
        trash.mkdir(parents=True, exist_ok=True)
        folder.rename(trash / f"{folder.name}.{secrets.token_hex(4)}")
    shutil.rmtree(trash, ignore_errors=True)
