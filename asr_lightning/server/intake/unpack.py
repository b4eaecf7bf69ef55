"""Unpack an archive into one folder of the job, with numbers as file names. Nothing outside it is ever opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from asr_lightning.server.intake.gzip_stream import GzipStream
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.names import Name, accepted_name, require_distinct
from asr_lightning.server.intake.tar_stream import TarStream
from asr_lightning.server.intake.verdict import IntakeError, Verdict, printable

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True)
class RawFile:
    """One unpacked file.

    Attributes:
        name: The client's name of the file.
        stored: Name of the unpacked file in the raw folder: a number.
        size: Size in bytes.
    """

    name: Name
    stored: str
    size: int


@contextmanager
def open_folder(name: str | os.PathLike, parent: int | None = None) -> Iterator[int]:
    """A descriptor of a folder. The folder may not be a link."""
    descriptor = os.open(name, FOLDER, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def open_regular(name: str | os.PathLike, parent: int) -> Iterator[int]:
    """A descriptor of a file in the folder ``parent``. The file may not be a link."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def unpack(
    archive: int, raw_folder: int, limits: IntakeLimits, verdict: Verdict, poll: Callable[[], None] = lambda: None
) -> list[RawFile]:
    """Write every recording, transcript and split file of an archive into a folder.

    Args:
        archive: Descriptor of the gzip tar file.
        raw_folder: Descriptor of an empty folder.
        limits: The limits of an upload.
        verdict: Gets an issue for each file of another kind, which is left out.
        poll: Called before each member; it may raise to stop.

    Raises:
        IntakeError: The archive is refused.
        OSError: The disk is full or fails.
    """
    files: list[RawFile] = []
    with os.fdopen(os.dup(archive), "rb") as file:
        tar = TarStream(GzipStream(file, limits), limits)
        for member in tar:
            poll()
            name = accepted_name(member.name, limits)
            if name is None or member.is_folder:
                continue
            if name.kind == "other":
                verdict.add("D29", "W", "this is no recording and no transcript; it was left out", name.base)
                continue
            _require_size(name, member.size, limits)
            stored = f"{len(files):06d}"
            _write(stored, raw_folder, tar.content())
            files.append(RawFile(name, stored, member.size))
            if len(files) > 2 * limits.clips + 3:
                raise IntakeError("too_large", f"data holds over {limits.clips} recordings; send fewer")
    require_distinct(file.name for file in files)
    if sum(file.name.kind == "audio" for file in files) > limits.clips:
        raise IntakeError("too_large", f"data holds over {limits.clips} recordings; send fewer")
    return files


def _require_size(name: Name, size: int, limits: IntakeLimits) -> None:
    bounds = {"audio": limits.audio_bytes, "text": limits.text_bytes, "csv": limits.csv_bytes}
    if size > bounds[name.kind]:
        raise IntakeError(
            "too_large",
            f"data: '{printable(name.base)}' has {size} bytes, {bounds[name.kind]} at most are taken; "
            "make it smaller or leave it out",
        )


def _write(stored: str, folder: int, pieces: Iterator[bytes]) -> None:
    with os.fdopen(os.open(stored, CREATE, 0o600, dir_fd=folder), "wb") as file:
        for piece in pieces:
            file.write(piece)
