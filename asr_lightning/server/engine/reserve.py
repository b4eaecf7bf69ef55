"""A file that only takes up space. It is given up when the disk is full, so that what frees space can be recorded."""

from __future__ import annotations

import os
from pathlib import Path


class Reserve:
    """The reserve of a home.

    Args:
        path: The file.
        size: Its size in bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    @property
    def size(self) -> int:
        """Bytes that the reserve holds now."""
        try:
            return os.lstat(self._path).st_size
        except OSError:
            return 0

    def fill(self) -> bool:
        """Take the space, unless that was done; returns whether the reserve is full now."""
        if self.size == self._size:
            return True
        self.release()
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                if hasattr(os, "posix_fallocate"):  # not on macOS
                    os.posix_fallocate(file.fileno(), 0, self._size)
                else:
                    file.write(bytes(self._size))
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> bool:
        """Give the space up; returns whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
