"""Read multipart forms as they arrive. Each byte of the file is written once; the client's file name is ignored."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from asr_lightning.server.http.problems import Problem, invalid
from asr_lightning.server.http.sink import Sink

MAX_PARTS = 16
VALUE_BYTES = 4096
BEGINNING = 256 << 10
"""Bytes of a refused form in which wrong fields are looked for."""
GZIP = b"\x1f\x8b"
FILE = "data"
CALLBACKS = (
    "part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "part_end", "end",
)  # fmt: skip


@dataclass
class Form:
    """A form.

    Attributes:
        fields: Values of the fields, by name.
        archive: The file on the disk; None if the form holds none, or if it is not kept.
        whole: Whether all of the form was read.
    """

    fields: dict[str, str] = field(default_factory=dict)
    archive: Path | None = None
    whole: bool = True


class _Reader:
    """Handles the events of the parser, which reads one part at a time. Without a ``sink`` the file is not kept."""

    def __init__(self, names: frozenset[str], sink: Sink | None) -> None:
        self.names, self.sink, self.form = names, sink, Form()
        self.parts, self.ended, self.name, self.value, self.head = 0, False, "", bytearray(), b""
        self.has_file = False
        self._key, self._header = bytearray(), bytearray()
        self._headers: dict[bytes, bytes] = {}

    def callbacks(self) -> dict[str, Callable[..., None]]:
        """The callbacks, by the names that the parser wants."""
        return {f"on_{name}": getattr(self, name) for name in CALLBACKS}

    def part_begin(self) -> None:
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise Problem("invalid_parameter", f"a form has at most {MAX_PARTS} fields")
        self._headers, self.value = {}, bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._key += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def header_end(self) -> None:
        self._headers[bytes(self._key).lower()] = bytes(self._header)
        self._key.clear()
        self._header.clear()

    def headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self.name = options.get(b"name", b"").decode("utf-8", "replace")
        if self.name != FILE and self.name not in self.names:
            raise invalid(self.name[:64], f"fields are {', '.join(sorted({*self.names, FILE}))}")
        if self.name in self.form.fields or (self.name == FILE and self.has_file):
            raise invalid(self.name, f"{self.name} is given twice")
        if self.name == FILE:
            self.has_file = True
            self.form.archive = self.sink.path if self.sink else None

    def part_data(self, data: bytes, start: int, end: int) -> None:
        if self.name == FILE:
            if len(self.head) < len(GZIP):
                self.head += data[start : min(end, start + 2)]
                require_gzip(self.head)
            if self.sink:
                self.sink.take(memoryview(data)[start:end])
            return
        self.value += data[start:end]
        if len(self.value) > VALUE_BYTES:
            raise invalid(self.name, f"{self.name} is too long")

    def part_end(self) -> None:
        if self.name == FILE:
            return
        try:
            self.form.fields[self.name] = self.value.decode()
        except UnicodeDecodeError as error:
            raise invalid(self.name, f"{self.name} is not UTF-8") from error

    def end(self) -> None:
        self.ended = True

    def require_file(self) -> None:
        """Require that the form, which was read to its end, held a gzip file."""
        if not self.head:
            raise invalid(FILE, "data is missing: -F data=@data.tar.gz")
        require_gzip(self.head.ljust(len(GZIP)))


def require_gzip(head: bytes) -> None:
    """Require that ``head`` begins a gzip file, and not a zip file, a plain tar file or a web page.

    Raises:
        Problem: It begins another kind of file.
    """
    if not head[:2] == GZIP[: len(head)]:
        raise Problem("unsupported_media", "data must be a .tar.gz: tar -czf data.tar.gz -C FOLDER .", param=FILE)


@asynccontextmanager
async def received(request: Request, names: frozenset[str], path: Path, min_free: int) -> AsyncIterator[Form]:
    """Read the form of ``request``. Its file is at ``path`` while this is open, and is deleted unless it was moved.

    Raises:
        Problem: The body is no multipart form, has unknown or too many fields, or holds no gzip file.
        DiskFullError: Too little space is left.
    """
    try:
        yield await _read(request, names, path, min_free)
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


async def beginning(request: Request, names: frozenset[str]) -> Form:
    """The fields at the beginning of a form, whose file is not kept.

    Raises:
        Problem: The body is no multipart form, has unknown or too many fields, or holds no gzip file.
    """
    reader, taken = _Reader(names, None), 0
    with _malformed():
        parser = MultipartParser(boundary(request), reader.callbacks())  # type: ignore[arg-type]
        async for chunk in request.stream():
            parser.write(chunk[: BEGINNING - taken])
            taken += len(chunk)
            if reader.ended or taken >= BEGINNING:
                break
    if reader.ended:
        reader.require_file()
    return dataclasses.replace(reader.form, whole=reader.ended)


async def _read(request: Request, names: frozenset[str], path: Path, min_free: int) -> Form:
    async with Sink(path, min_free) as sink:
        reader = _Reader(names, sink)
        with _malformed():
            parser = MultipartParser(boundary(request), reader.callbacks())  # type: ignore[arg-type]
            async for chunk in request.stream():
                if not reader.ended:  # what follows the end is ignored
                    parser.write(chunk)
                await sink.settle()
        if not reader.ended:
            raise Problem("invalid_parameter", "the form breaks off", param="body")
        reader.require_file()
        await sink.finish()
    return reader.form


@contextlib.contextmanager
def _malformed() -> Iterator[None]:
    """Say of a body that is no form what it should be."""
    try:
        yield
    except FormParserError as error:
        raise Problem("invalid_parameter", "this is no multipart form: curl -F makes one", param="body") from error


def boundary(request: Request) -> bytes:
    """The boundary between the parts of a multipart form.

    Raises:
        Problem: The request holds no multipart form.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise Problem("unsupported_media", "send a multipart form: curl -F data=@data.tar.gz …")
    return options[b"boundary"]
