"""Reads an audio folder that holds ``<UID>.wav|mp3|…`` with ``<UID>.txt`` for each recording.

Reads names and transcripts only, changes nothing, and decodes no audio. Knows no CSV and no split.
"""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from asr_lightning.data.characters import same_name, shown, told_apart, visible
from asr_lightning.data.formats import AUDIO_SUFFIXES, format_of
from asr_lightning.data.rows import Row, read_text, split_key
from asr_lightning.errors import DataError
from asr_lightning.scoring.text import name_some

log = logging.getLogger(__name__)

TEXT_SUFFIXES = frozenset({".txt", ".csv", ".json", ".jsonl", ".md", ".html"})


def is_recording(path: Path) -> bool:
    """Whether the name of a file is that of a recording.

    Hidden files never are. macOS writes one beside each file on a foreign disk: ``._a.wav`` has no sound in it.
    """
    return not path.name.startswith(".") and path.suffix.lower() in AUDIO_SUFFIXES


def list_audio(folder: Path) -> tuple[Path, ...]:
    """The recordings directly inside ``folder``, sorted by name; hidden files are ignored.

    Raises:
        ValueError: The folder is missing, is a file, or cannot be read.
    """
    return tuple(path for path in _visible_files(folder) if is_recording(path))


def walk_audio(folder: Path) -> Iterator[Path]:
    """The recordings in ``folder`` and in folders below it, sorted by path. Hidden files and folders are ignored.

    Sound in files with other suffixes is logged.

    Raises:
        ValueError: As for ``list_audio``.
    """
    files = _visible_files(folder, "**/*")
    _warn_of_unread(folder, files)
    yield from filter(is_recording, files)


def scan_folder(folder: Path, skip: Collection[str] = ()) -> tuple[Row, ...]:
    """Every recording of ``folder`` with its transcript, sorted by UID.

    Args:
        folder: Folder with ``<UID>.<audio suffix>`` and ``<UID>.txt``; suffixes may be in upper or lower case.
        skip: File names that need no transcript here, since a CSV lists them.

    Raises:
        ValueError: The folder has no recordings, or there are recordings without transcript, transcripts without
            recording, several files with one UID, names that are not UTF-8, or empty or undecodable transcripts. One
            message lists all problems.
    """
    files = _visible_files(folder)
    _warn_of_unread(folder, files)
    nameless = [shown(path.name) for path in files if shown(path.name) != path.name and _is_of_clip(path)]
    files = [path for path in files if shown(path.name) == path.name]
    audio = list(filter(is_recording, files))
    if not audio and not nameless:
        kinds = " ".join(sorted(AUDIO_SUFFIXES))
        raise DataError(f"{folder}: no audio file in this folder; expected <UID> with one of {kinds}, and <UID>.txt")
    transcripts = [path for path in files if path.suffix.lower() == ".txt"]
    wanted = [path for path in audio if path.name not in skip]
    text_of = {same_name(path.stem): path for path in transcripts}
    problems = [
        *_nameless(nameless),
        *_duplicates(audio),
        *_duplicates(transcripts),
        *_unpaired(audio, wanted, text_of, files),
    ]
    pairs = {path.stem: text_of[same_name(path.stem)] for path in wanted if same_name(path.stem) in text_of}
    texts, bad_texts = _read_texts(pairs)
    if problems or bad_texts:
        raise DataError(f"{folder}: " + "\n".join([*problems, *bad_texts]))
    return tuple(sorted((Row(path.stem, path.name, texts[path.stem]) for path in wanted), key=lambda row: row.uid))


def _visible_files(folder: Path, pattern: str = "*") -> list[Path]:
    if not folder.exists():
        raise DataError(f"{folder}: there is no such audio folder; check the path")
    if not folder.is_dir():
        raise DataError(f"{folder}: this is a file; name the folder that holds the recordings")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise DataError(f"{folder}: no permission to read this folder")
    found = folder.glob(pattern)
    return sorted(path for path in found if not _is_hidden(path.relative_to(folder)) and path.is_file())


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _is_of_clip(path: Path) -> bool:
    return is_recording(path) or path.suffix.lower() == ".txt"


def _warn_of_unread(folder: Path, files: Sequence[Path]) -> None:
    """Log the files that hold sound and whose names do not show it."""
    others = [path for path in files if path.suffix.lower() not in AUDIO_SUFFIXES | TEXT_SUFFIXES]
    unread = [shown(str(path.relative_to(folder))) for path in others if _holds_sound(path)]
    if unread:
        log.warning(
            "%d files hold sound and are not read, since their names do not end as those of sound files do: %s. "
            "Rename them, such as to .wav or .mp3, if they are recordings", len(unread), name_some(unread),
        )  # fmt: skip


def _holds_sound(path: Path) -> bool:
    try:
        return format_of(path) is not None
    except OSError:
        return False


def _nameless(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    return [f"{len(names)} names of files are not UTF-8: {name_some(names)}. Rename these files."]


def _duplicates(paths: Sequence[Path]) -> list[str]:
    """Describe files whose UIDs are equal, or would be equal on a file system that ignores case."""
    same: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        same[same_name(path.stem).casefold()].append(path.name)
    clashes = [" = ".join(told_apart(names)) for names in same.values() if len(names) > 1]
    if not clashes:
        return []
    return [
        f"{len(clashes)} UIDs belong to more than one file: {name_some(clashes)}. Keep one file of each, or rename one."
    ]


def _unpaired(
    audio: Sequence[Path], wanted: Sequence[Path], text_of: Mapping[str, Path], files: Sequence[Path]
) -> list[str]:
    problems = []
    silent = [f"{path.name} (expected {path.stem}.txt)" for path in wanted if same_name(path.stem) not in text_of]
    if silent:
        problems.append(
            f"{len(silent)} of {len(wanted)} recordings have no transcript: {name_some(silent)}. "
            "Write what is said into these files, or move the recordings out of the folder."
        )
    stems = {same_name(path.stem) for path in audio}
    beside = {same_name(path.stem): f" ({path.name} is not read)" for path in files if not _is_of_clip(path)}
    orphans = [path.name + beside.get(stem, "") for stem, path in text_of.items() if stem not in stems]
    if orphans:
        problems.append(
            f"{len(orphans)} transcripts have no recording: {name_some(orphans)}. "
            "Add the recordings, or move these files out of the folder."
        )
    return problems


def warn_of_invisible(left_out: Mapping[str, Sequence[str]]) -> None:
    """Log the transcripts, by file or line, from which invisible characters were left out."""
    named = [f"{place} ({', '.join(names)})" for place, names in left_out.items() if names]
    if named:
        log.warning("%d transcripts hold characters that nobody sees, and are read without them: %s", len(named),
                    name_some(named))  # fmt: skip


def _read_texts(paths: dict[str, Path]) -> tuple[dict[str, str], list[str]]:
    """Read transcripts by UID; also return one message for each kind of problem."""
    texts, unreadable, empty = {}, [], []
    left_out: dict[str, tuple[str, ...]] = {}
    for uid, path in paths.items():
        try:
            texts[uid], left_out[path.name] = visible(read_text(path))
        except ValueError as error:
            unreadable.append(str(error))
            continue
        if not split_key(texts[uid]):
            empty.append(path.name)
    warn_of_invisible(left_out)
    problems = [f"{len(unreadable)} transcripts cannot be read: {name_some(unreadable)}."] if unreadable else []
    if empty:
        problems.append(
            f"{len(empty)} transcripts are empty (no word): {name_some(empty)}. "
            "Write what is said, or move the recordings with their transcripts out of the folder."
        )
    return texts, problems
