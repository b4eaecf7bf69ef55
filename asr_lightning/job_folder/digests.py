"""SHA-256 digests of files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol


class Readable(Protocol):
    """An open binary file. ``hashlib.file_digest`` would need methods that a tar member does not have."""

    def read(self, size: int, /) -> bytes:
        """Up to ``size`` bytes; none at the end."""


def digest_of(path: Path) -> str | None:
    """The SHA-256 of the file at ``path`` in hex, or None if there is no such file."""
    try:
        with path.open("rb") as file:
            return stream_digest(file)
    except (FileNotFoundError, NotADirectoryError):
        return None


def stream_digest(file: Readable) -> str:
    """The SHA-256, in hex, of what is left to read in an open file."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()
