"""Files of JSON objects, one on each line, to which lines are only added. A line that a crash cut off is left out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from asr_lightning.durable.files import read_bytes, sync_folder


class Lines(NamedTuple):
    """The content of a journal.

    Attributes:
        objects: The objects that could be read, in the order of their lines.
        whole: Whether there is a file, and every line of it could be read.
    """

    objects: list[dict[str, Any]]
    whole: bool


def append(path: Path, objects: Iterable[Mapping[str, object]]) -> None:
    """Add a line for each object; all are on the disk when this returns. The file is made if it is missing.

    Raises:
        OSError: The lines cannot be written; the last one may be there in part.
    """
    is_new = not path.exists()
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "r+b") as file:
        end = file.seek(0, os.SEEK_END)
        lines = b"".join(json.dumps(each, allow_nan=False).encode() + b"\n" for each in objects)
        if end:
            file.seek(end - 1)
            lines = lines if file.read(1) == b"\n" else b"\n" + lines  # after a line that was cut off
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
    if is_new:
        sync_folder(path.parent)


def read(path: Path) -> Lines:
    """The objects in the journal at ``path``; none if there is no such file, or if it cannot be read."""
    try:
        content = read_bytes(path)
    except OSError:
        return Lines([], False)
    objects, whole = [], True
    for line in filter(None, content.split(b"\n")):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if isinstance(entry, dict):
            objects.append(entry)
        else:
            whole = False
    return Lines(objects, whole)
