"""What ``transcribe`` and ``predict`` share: the recordings to read, and reading them in their order."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asr_lightning.recognizer import Recognizer, Transcription
    from asr_lightning.recordings import Clip

HELD_SECONDS = 600.0
"""Seconds of short recordings that are held at once, of which those of similar length share a batch."""

Heard = Callable[[str, float, float], None]
"""Called with the name of a recording, the seconds of it that were read, and its length, 0 if that is unknown."""


class Read(NamedTuple):
    """What became of a recording.

    Attributes:
        path: The recording.
        transcription: What is said in it, or in the part of it that could be decoded; None if it was refused.
        refusal: Why it, or the rest of it, was refused; empty if it was read to its end.
    """

    path: Path
    transcription: Transcription | None
    refusal: str = ""


def audio_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The recordings in ``paths`` and in folders below them, sorted within each folder. A file may have any name.

    Raises:
        ValueError: A path does not exist.
    """
    from asr_lightning.data.folder import walk_audio

    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        yield from walk_audio(path) if path.is_dir() else [path]


def require_writable(path: Path, option: str = "--output") -> None:
    """Refuse an output that could not be written in the end, before hours are spent on it.

    Raises:
        ValueError: It exists, or its folder does not exist or may not be written to.
    """
    if path.exists():
        raise ValueError(f"{path} exists; name another {option}, or remove it first")
    folder = path.parent
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: make it first (mkdir -p {folder}), or name another {option}")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} may not be written to: name another {option}")


def read_all(files: Iterable[Path], recognizer: Recognizer, heard: Heard) -> Iterator[Read]:
    """Read ``files``, and give out what became of each, in their order. Short ones share batches."""
    held: list[tuple[Path, Clip | str]] = []
    seconds = 0.0
    for path in files:
        clip = _clip(path, recognizer)
        if not isinstance(clip, str) and recognizer.is_long(clip):
            yield from _read_held(held, recognizer)
            held, seconds = [], 0.0
            yield _read_long(path, clip, recognizer, heard)
            continue
        held.append((path, clip))
        seconds += 0.0 if isinstance(clip, str) else clip.seconds
        if seconds > HELD_SECONDS:
            yield from _read_held(held, recognizer)
            held, seconds = [], 0.0
    yield from _read_held(held, recognizer)


def _clip(path: Path, recognizer: Recognizer) -> Clip | str:
    from asr_lightning.errors import MissingExtraError

    try:
        return recognizer.clip(path)
    except MissingExtraError:
        raise
    except ValueError as error:
        return str(error)


def _read_held(held: list[tuple[Path, Clip | str]], recognizer: Recognizer) -> Iterator[Read]:
    found = iter(recognizer.read([clip for _, clip in held if not isinstance(clip, str)]))
    for path, clip in held:
        yield Read(path, None, clip) if isinstance(clip, str) else Read(path, next(found))


def _read_long(path: Path, clip: Clip, recognizer: Recognizer, heard: Heard) -> Read:
    """Read a long recording. Where it cannot be decoded to its end, what was read is kept, and the rest is refused."""
    found, message, length = [], "", 0.0

    def count(seconds: float) -> None:
        nonlocal length
        length = seconds
        heard(str(path), seconds, clip.seconds)

    try:
        for segment in recognizer.segments(clip, count):
            found.append(segment)
    except ValueError as error:
        if not found:
            return Read(path, None, str(error))
        message = f"{error}. The text of its first {length:.0f} s is kept"
    return Read(path, recognizer.transcription(clip._replace(seconds=length), found), message)
