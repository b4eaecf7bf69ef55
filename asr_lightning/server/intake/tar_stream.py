"""Read the regular files and folders of a tar stream; every other kind of member is refused.

It supports POSIX ustar, GNU long names, and pax records of path and size (POSIX.1-2017, pax, "ustar Interchange
Format"). The reader of the standard library supports far more than an upload may use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from asr_lightning.server.intake.gzip_stream import REMEDY, GzipStream
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.verdict import IntakeError, printable

BLOCK = 512
PIECE = 1 << 18
MAX_ZEROS = 16 << 20  # padding behind the end: GNU tar's default record has 10 KiB, tapes up to some MiB
KINDS = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"7": "reserved",
    b"S": "a sparse file", b"K": "a link with a long name", b"D": "a folder dump", b"M": "a part of a file",
    b"V": "a volume name", b"N": "an old long name",
}  # fmt: skip


@dataclass(frozen=True)
class Header:
    """The fields of one header block that the reader needs."""

    name: bytes
    size: int
    kind: bytes


@dataclass(frozen=True)
class Member:
    """A file or a folder of the archive, with the client's name."""

    name: str
    size: int
    is_folder: bool


class TarStream:
    """The members of a tar stream, one after the other. The content of a member is read in pieces, or skipped.

    Args:
        stream: The stream, at the start of the tar archive.
        limits: Limits of the headers and records.
    """

    def __init__(self, stream: GzipStream, limits: IntakeLimits) -> None:
        self._stream, self._limits = stream, limits
        self._headers = 0
        self._left = self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        """The members in their order.

        Raises:
            IntakeError: A member is no regular file or folder, a header is damaged, there are too many, or the archive
                has no end.
        """
        while (header := self._next_header()) is not None:
            path: str | None = None
            size: int | None = None
            if header.kind in (b"x", b"L"):
                path, size = self._extension(header)
                header = self._file_after(header)
            elif header.kind == b"g":
                self._extension(header)
                continue
            yield self._member(header, path, size)

    def content(self) -> Iterator[bytes]:
        """The bytes of the current member, in pieces."""
        while self._left:
            piece = self._stream.read(min(self._left, PIECE))
            if not piece:
                raise _cut_off()
            self._left -= len(piece)
            yield piece

    def _file_after(self, extension: Header) -> Header:
        following = self._next_header()
        if following is None or following.kind in (b"x", b"g", b"L"):
            raise IntakeError(
                "dataset_invalid", f"data has a name record ({_kind(extension)}) without a file; {REMEDY}"
            )
        return following

    def _member(self, header: Header, path: str | None, size: int | None) -> Member:
        name = _text(header.name) if path is None else path
        if header.kind not in (b"0", b"\0", b"5"):
            kind = KINDS.get(header.kind, f"of unknown type {_kind(header)}")
            raise IntakeError(
                "dataset_invalid",
                f"data: member '{printable(name, 80)}' is {kind}; only regular files are taken: pack again without it",
            )
        if size is not None:
            header = replace(header, size=size)
        is_folder = header.kind == b"5" or name.endswith("/")
        if is_folder and header.size:
            raise IntakeError("dataset_invalid", f"data: folder '{printable(name, 80)}' claims to hold bytes; {REMEDY}")
        self._expect(header.size)
        return Member(name, header.size, is_folder)

    def _expect(self, size: int) -> None:
        if size > self._limits.unpacked_bytes:
            raise IntakeError("too_large", "data: a member claims to be larger than the whole archive may be")
        self._left, self._padding = size, -size % BLOCK

    def _next_header(self) -> Header | None:
        for _ in self.content():
            pass
        if len(self._stream.read(self._padding)) < self._padding:
            raise _cut_off()
        self._padding = 0
        block = self._stream.read(BLOCK)
        if len(block) < BLOCK:
            raise _cut_off() if self._headers else _no_tar()
        if not any(block):
            self._check_end()
            return None
        self._headers += 1
        if self._headers > self._limits.headers:
            raise IntakeError("too_large", f"data has over {self._limits.headers} members; send fewer recordings")
        return _parse(block, first=self._headers == 1)

    def _check_end(self) -> None:
        """Require that only zeros follow the first zero block."""
        total = 0
        while piece := self._stream.read(PIECE):
            total += len(piece)
            if any(piece) or total > MAX_ZEROS:
                raise IntakeError("dataset_invalid", f"data has extra bytes behind the end of the archive; {REMEDY}")

    def _extension(self, header: Header) -> tuple[str | None, int | None]:
        """The path and the size that a record sets for the next member; None for what it does not set."""
        if header.size > self._limits.extension_bytes:
            raise IntakeError("too_large", f"data has a name record of {header.size} bytes; {REMEDY}")
        self._expect(header.size)
        content = b"".join(self.content())
        if header.kind == b"L":
            return _text(content.removesuffix(b"\0")), None
        records = pax_records(content)
        if header.kind == b"g" and records.keys() & {b"path", b"size"}:
            raise IntakeError("dataset_invalid", f"data gives one name or size to all its members; {REMEDY}")
        if any(key.startswith(b"GNU.sparse") for key in records):
            raise IntakeError("dataset_invalid", f"data holds sparse files; {REMEDY}")
        path, size = records.get(b"path"), records.get(b"size")
        if size is not None and not (size.isdigit() and len(size) < 20):
            raise IntakeError("dataset_invalid", f"data has a member without a valid size; {REMEDY}")
        return None if path is None else _text(path), None if size is None else int(size)


def pax_records(content: bytes) -> dict[bytes, bytes]:
    """The values of ``<length> <key>=<value>\\n`` records, by key.

    Raises:
        IntakeError: A length is wrong, or a key occurs twice.
    """
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(content):
        digits, _, _ = content[position : position + 8].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = content[position + len(digits) + 1 : position + length]
        key, equals, value = record[:-1].partition(b"=")
        if position + length > len(content) or not record.endswith(b"\n") or not (key and equals) or key in records:
            raise IntakeError("dataset_invalid", f"data has a damaged name record; {REMEDY}")
        records[key] = value
        position += length
    return records


def _parse(block: bytes, first: bool) -> Header:
    """The fields of a header block. If the ``first`` one of a file is bad, the file is no tar archive."""
    stored = _number(block[148:156])
    if stored != sum(block) - sum(block[148:156]) + 8 * 32:
        if first:
            raise _no_tar()
        raise IntakeError("dataset_invalid", "data is damaged: a header has a wrong checksum; pack and send it again")
    size = _number(block[124:136])
    if size is None:
        raise IntakeError("dataset_invalid", f"data has a member without a valid size; {REMEDY}")
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return Header(prefix + b"/" + name if prefix else name, size, block[156:157])


def _number(field: bytes) -> int | None:
    """A number in octal digits, or in GNU's base 256 after a byte 0x80; None if it is neither, or negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip(b" ")
    if any(byte not in b"01234567" for byte in digits):
        return None
    return int(digits or b"0", 8)


def _text(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError as error:
        shown = printable(name.decode("utf-8", "replace"), 80)
        raise IntakeError(
            "dataset_invalid", f"data: the name of member '{shown}' is not UTF-8; rename it with plain letters"
        ) from error


def _kind(header: Header) -> str:
    return ascii(header.kind)[1:]


def _cut_off() -> IntakeError:
    return IntakeError("dataset_invalid", "data is cut off: the tar archive has no end; pack and send it again")


def _no_tar() -> IntakeError:
    return IntakeError("unsupported_media", f"data is no tar archive inside its gzip; {REMEDY}")
