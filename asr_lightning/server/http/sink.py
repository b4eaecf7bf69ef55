"""Write the body of a request to the disk: with little memory, without delaying others, and with space kept free."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar

from asr_lightning.durable.files import FULL
from asr_lightning.server.engine.errors import DiskFullError

BLOCK = 1 << 20
WRITERS = 8
FULL_MESSAGE = "the server's disk is full"

_limiter: RunVar[CapacityLimiter] = RunVar("asr_lightning.server.http.sink")


def _writers() -> CapacityLimiter:
    """Limits the threads that wait for the disk, so that a slow disk leaves some to answer other requests."""
    try:
        return _limiter.get()
    except LookupError:
        _limiter.set(CapacityLimiter(WRITERS))
        return _limiter.get()


class Sink:
    """A file that is being received.

    Args:
        path: An existing file; bytes are added at its end.
        min_free: Bytes that must stay free on the disk.

    Attributes:
        written: Number of bytes that this sink has written.
        taken: Number of bytes that this sink was given: the written ones, and those that wait to be written.
    """

    def __init__(self, path: Path, min_free: int) -> None:
        self.path, self.written, self.taken, self._min_free = path, 0, 0, min_free
        self._buffer, self._lock = bytearray(), threading.Lock()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:  # the thread of a cancelled request may still be writing
            os.close(self._file)
            self._file = -1

    def take(self, data: bytes | memoryview) -> None:
        """Buffer ``data`` until the next ``settle``."""
        self._buffer += data
        self.taken += len(data)

    async def settle(self, min_bytes: int = BLOCK) -> None:
        """Write the buffer if it holds at least ``min_bytes`` bytes.

        Raises:
            DiskFullError: Too little space is left.
        """
        if len(self._buffer) >= max(1, min_bytes):
            block, self._buffer = self._buffer, bytearray()
            await to_thread.run_sync(self._write, block, limiter=_writers())

    async def finish(self) -> None:
        """Write the rest, and make sure that the file survives a power cut."""
        await self.settle(0)
        await to_thread.run_sync(self._sync, limiter=_writers())

    def _sync(self) -> None:
        with self._lock:
            os.fsync(self._file)

    def _write(self, block: bytearray) -> None:
        if shutil.disk_usage(self.path.parent).free < self._min_free + len(block):
            raise DiskFullError(errno.ENOSPC, FULL_MESSAGE)
        try:
            with self._lock, memoryview(block) as view:
                done = 0
                while done < len(block):
                    done += os.write(self._file, view[done:])
                self.written += done
        except OSError as error:
            if error.errno in FULL:
                raise DiskFullError(error.errno, FULL_MESSAGE) from error
            raise
