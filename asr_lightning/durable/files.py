"""Small files that are complete or absent, even after a crash or a power cut; and the errors of a full disk."""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
from pathlib import Path
from typing import Any

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, an exhausted quota and an exceeded file size limit."""
NO_SYNC = frozenset({errno.EINVAL, errno.ENOTSUP})
"""Error numbers of file systems that cannot flush a folder, as those of some network drives (``man 2 fsync``)."""

NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
"""What is raised for a file that is missing, or has something else in its place; a failing disk is no such case."""


def write_json(path: Path, data: Any) -> None:
    """Replace ``path`` by ``data`` in one step: temporary file, fsync, rename, fsync of the folder.

    Raises:
        OSError: The file cannot be written; an earlier one is unchanged.
    """
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | flags("O_NOFOLLOW"), 0o600)
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
    """The JSON object in ``path``; None if there is no such file, or if ``write_json`` cannot have written it.

    It writes a complete object with finite numbers, and with texts that can be encoded as UTF-8.

    Raises:
        OSError: The disk fails.
    """
    try:
        text = read_bytes(path).decode("utf-8")
        content = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if "\\ud" in text.lower():  # JSON may hold half of a surrogate pair
            json.dumps(content, ensure_ascii=False).encode()
    except (*NO_FILE, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def read_bytes(path: Path) -> bytes:
    """The content of a file. In its place, a named pipe into which nobody writes is empty, and does not wait for ever.

    Raises:
        OSError: It cannot be read.
    """
    with open(path, "rb", opener=lambda name, how: os.open(name, how | flags("O_NONBLOCK"))) as file:
        return file.read()


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _finite(number: str) -> float:
    """The number, unless it is too large for a float, as 1e999 is."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number} is too large")
    return value


def flags(*names: str) -> int:
    """The flags of ``os.open`` with these names. Those that a system lacks, as Windows lacks ``O_NOFOLLOW``, are 0."""
    return sum(getattr(os, name, 0) for name in names)


def sync_folder(folder: Path) -> None:
    """Make the kernel write renames inside ``folder`` to disk, where a system can: Windows opens no folders."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise
    finally:
        os.close(descriptor)
