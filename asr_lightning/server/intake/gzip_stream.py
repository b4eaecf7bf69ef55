"""Read a gzip file as a stream. Sizes are counted while reading, so that a bomb cannot exceed the limits."""

from __future__ import annotations

import zlib
from typing import BinaryIO

from asr_lightning.server.intake.limits import MIB, IntakeLimits
from asr_lightning.server.intake.verdict import IntakeError

CHUNK = 1 << 16  # compressed bytes read at once
PIECE = 1 << 18  # unpacked bytes made at once
MAGIC = b"\x1f\x8b\x08"
REMEDY = "pack the folder with: tar -czvf data.tar.gz -C folder ."


class GzipStream:
    """The unpacked bytes of a file with one gzip member and nothing else.

    Args:
        file: The file, open for reading at its start.
        limits: Limits of the size and the ratio.

    Raises:
        IntakeError: Every method raises it for a file that is no gzip file, damaged, cut off, followed by other bytes,
            or over the limits.
    """

    def __init__(self, file: BinaryIO, limits: IntakeLimits) -> None:
        self._file, self._limits = file, limits
        self._unpack = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # gzip only; checks length and CRC at the end
        self._packed = self._unpacked = 0
        self._ready = bytearray()
        first = self._next_chunk()
        if not first.startswith(MAGIC):
            raise IntakeError("unsupported_media", f"data is no gzip-compressed tar archive; {REMEDY}")
        self._pending = first

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer only at the end."""
        while len(self._ready) < size and self._more():
            pass
        data = bytes(self._ready[:size])
        del self._ready[:size]
        return data

    def _next_chunk(self) -> bytes:
        chunk = self._file.read(CHUNK)
        self._packed += len(chunk)
        return chunk

    def _more(self) -> bool:
        """Unpack one piece into ``_ready``; returns False at the verified end of the file."""
        if self._unpack.eof:
            if self._unpack.unused_data or self._next_chunk():
                raise IntakeError("dataset_invalid", f"data has extra bytes behind the end of the archive; {REMEDY}")
            return False
        try:
            piece = self._unpack.decompress(self._pending, PIECE)
        except zlib.error as error:
            raise IntakeError("dataset_invalid", "data is a damaged gzip archive; pack and send it again") from error
        self._count(len(piece))
        self._ready += piece
        self._pending = self._unpack.unconsumed_tail
        if not self._pending and not self._unpack.eof:
            self._pending = self._next_chunk()
            if not self._pending and not piece:
                raise IntakeError("dataset_invalid", "data is cut off: the archive has no end; pack and send it again")
        return True

    def _count(self, size: int) -> None:
        self._unpacked += size
        limits = self._limits
        if self._unpacked > limits.unpacked_bytes:
            raise IntakeError(
                "too_large", f"data unpacks to over {limits.unpacked_bytes // MIB} MiB; send fewer or compressed files"
            )
        used = self._packed - len(self._unpack.unconsumed_tail)
        if self._unpacked > limits.ratio_free_bytes and self._unpacked > limits.ratio * used:
            raise IntakeError(
                "too_large", f"data unpacks to over {limits.ratio} times its size, as no recording does; {REMEDY}"
            )
