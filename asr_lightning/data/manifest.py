"""Reads and writes ``train_files.csv``, ``dev_files.csv`` and ``test_files.csv``.

Errors name file and line. A file that exists is never changed. Knows neither the content of audio files nor how a split
is made.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from asr_lightning.data.characters import same_name, visible
from asr_lightning.data.folder import warn_of_invisible
from asr_lightning.data.rows import Row, read_text, split_key
from asr_lightning.errors import DataError
from asr_lightning.scoring.text import name_some

HEADER = ("uid", "file_name", "text")
CSV_NAMES = {"train": "train_files.csv", "dev": "dev_files.csv", "test": "test_files.csv"}


@dataclass(frozen=True)
class Entry:
    """A row and its place in a CSV, for messages.

    Attributes:
        row: The recording.
        csv_name: File name of the CSV.
        line: Number of the first line of the row; the header is line 1.
    """

    row: Row
    csv_name: str
    line: int

    @property
    def place(self) -> str:
        """The place as messages name it."""
        return f"{self.csv_name} line {self.line}"


def read_manifest(path: Path, folder: Path) -> tuple[Entry, ...]:
    """Read all rows of a CSV with the header ``uid,file_name,text``, in order.

    The file is UTF-8 with or without a byte-order mark. The delimiter of the header may also be a semicolon or a tab,
    since spreadsheets in many countries write these.

    Args:
        path: The CSV.
        folder: The folder that each ``file_name`` is relative to.

    Raises:
        ValueError: The encoding or the header is wrong, there is no row, or a row has missing or empty fields or a file
            name that does not exist or leads out of the folder; every such line is named.
    """
    entries, problems = [], []
    left_out: dict[str, tuple[str, ...]] = {}
    for line, fields in _records(path):
        problem = _problem(fields, folder)
        if problem:
            problems.append(f"{path.name} line {line}: {problem}")
        else:
            uid, file_name, text = (field.strip() for field in fields)
            text, names = visible(text)
            entries.append(Entry(Row(uid, find_file(folder, file_name) or file_name, text), path.name, line))
            left_out[entries[-1].place] = names
    warn_of_invisible(left_out)
    if problems:
        raise DataError(f"{path}: {len(problems)} bad lines\n" + name_some(problems, "\n"))
    if not entries:
        raise DataError(f"{path}: the file lists no recording; add rows, or delete the file, and it is made again")
    return tuple(entries)


def require_unique(entries: Iterable[Entry]) -> None:
    """Refuse a UID or an audio file that is listed twice, in the same CSV or in two.

    Raises:
        ValueError: A UID or a file is listed twice; the message names both lines.
    """
    first: dict[tuple[str, str], Entry] = {}
    problems = []
    for entry in entries:
        for kind, value in (("uid", entry.row.uid), ("file_name", entry.row.file_name)):
            earlier = first.setdefault((kind, value), entry)
            if earlier is not entry:
                problems.append(f"{entry.place}: {kind} {value!r} is already in {earlier.place}")
    if problems:
        raise DataError("a recording may be listed once only; delete one of the lines:\n" + name_some(problems, "\n"))


def write_manifests(directory: Path, splits: Mapping[str, Sequence[Row]]) -> None:
    """Write one CSV per split into ``directory``. If one of them cannot be written, none is.

    Raises:
        FileExistsError: One of the CSVs exists already; nothing is ever overwritten.
        OSError: The directory cannot be written.
    """
    temporary = {directory / CSV_NAMES[split]: directory / f".{CSV_NAMES[split]}.{os.getpid()}.tmp" for split in splits}
    for target in temporary:
        if target.exists():
            raise FileExistsError(f"{target}: the file exists already and is never overwritten")
    written: list[Path] = []
    try:
        for rows, file in zip(splits.values(), temporary.values(), strict=True):
            file.write_text(_as_csv(rows), encoding="utf-8", newline="")
        for target, file in temporary.items():
            file.replace(target)
            written.append(target)
    except OSError:
        for target in written:  # written just now, and half a split is worse than none
            target.unlink()
        raise
    finally:
        for file in temporary.values():
            file.unlink(missing_ok=True)


def _as_csv(rows: Sequence[Row]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((row.uid, row.file_name, row.text) for row in rows)
    return buffer.getvalue()


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the fields of every record below the header.

    Raises:
        ValueError: The encoding, the header or the quoting is wrong.
    """
    text = read_text(path)
    header = text.split("\n", 1)[0].rstrip("\r")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(path, header), strict=True)
    line = 1
    try:
        for fields in reader:
            if line > 1 and fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: line {line} is no valid CSV ({error}); a text with a quotation mark is written as "
            '"she said ""yes"""'
        ) from error


def _delimiter(path: Path, header: str) -> str:
    for delimiter in ",;\t":
        names = [name.strip().strip('"').lower() for name in header.split(delimiter)]
        if tuple(names) == HEADER:
            return delimiter
    raise DataError(f"{path}: line 1 must be the header {','.join(HEADER)!r}, but is {header[:80]!r}")


def _problem(fields: list[str], folder: Path) -> str | None:
    """Describe what is wrong with a record; None if it is right."""
    if len(fields) != len(HEADER):
        return f"{len(fields)} fields instead of 3; put a text that holds the delimiter in quotation marks"
    empty = [name for name, field in zip(HEADER, fields, strict=True) if not field.strip()]
    if empty:
        return f"{' and '.join(empty)} is empty"
    if not split_key(fields[2]):
        return f"the text {fields[2]!r} holds no word"
    return _path_problem(fields[1].strip(), folder)


def _path_problem(file_name: str, folder: Path) -> str | None:
    """Describe what is wrong with a path; None if it is right.

    A path may not lead out of the folder. Links inside the folder may, since the user has made them.
    """
    shown = file_name if len(file_name) <= 200 else f"{file_name[:200]}…"
    windows = PureWindowsPath(file_name)
    if PurePosixPath(file_name).is_absolute() or windows.anchor or ".." in windows.parts:
        return f"file_name {shown!r} leads out of the folder; write it relative to the folder, without '..'"
    if find_file(folder, file_name) is None:
        return f"there is no file {shown!r} in {folder}; put it back, or delete this line"
    return None


def find_file(folder: Path, file_name: str) -> str | None:
    """The path of a file of ``folder``, relative to it, as the disk has it; None if there is no such file.

    A name may be written in another form of Unicode than on the disk: "ü" as one character or as two.
    """
    parts = PurePosixPath(file_name).parts
    try:
        if (folder / file_name).is_file():
            return str(PurePosixPath(file_name))
        if file_name.isascii():
            return None
        found = folder
        for part in parts:
            found = next(path for path in found.iterdir() if same_name(path.name) == same_name(part))
        return found.relative_to(folder).as_posix() if found.is_file() else None
    except (OSError, StopIteration):  # also a name that is longer than the disk allows
        return None
