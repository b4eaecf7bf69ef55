"""Small files that are complete or absent, even after a crash or a power cut; and the errors of a full disk."""

from __future__ import annotations

import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, an exhausted quota and an exceeded file size limit."""

NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""What is raised for a file that is missing, or has something else in its place; a failing disk is no such case."""


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` by ``data`` in one step: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: The file cannot be written; an earlier one is unchanged.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(data, file, ensure_ascii=False, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in ``path``; None if there is no such file, or no complete object with finite numbers in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse)
    except (*NO_FILE, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def sync_folder(folder: Path) -> None:
    """Make the kernel write renames inside ``folder`` to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
