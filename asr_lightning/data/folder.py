"""Reads an audio folder that holds ``<UID>.wav|mp3|…`` with ``<UID>.txt`` for each recording.

Reads names and transcripts only, changes nothing, and opens no audio. Knows no CSV and no split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

from asr_lightning.data.audio import AUDIO_SUFFIXES
from asr_lightning.data.rows import Row, one_line, read_text, split_key
from asr_lightning.errors import DataError
from asr_lightning.scoring.text import name_some


def list_audio(folder: Path) -> tuple[Path, ...]:
    """The audio files directly inside ``folder``, sorted by name; hidden files are ignored.

    Raises:
        ValueError: The folder is missing, is a file, or cannot be read.
    """
    return tuple(path for path in _visible_files(folder) if path.suffix.lower() in AUDIO_SUFFIXES)


def scan_folder(folder: Path, skip: Collection[str] = ()) -> tuple[Row, ...]:
    """Every recording of ``folder`` with its transcript, sorted by UID.

    Args:
        folder: Folder with ``<UID>.<audio suffix>`` and ``<UID>.txt``; suffixes may be in upper or lower case.
        skip: File names that need no transcript here, since a CSV lists them.

    Raises:
        ValueError: The folder has no recordings, or there are recordings without transcript, transcripts without
            recording, several files with one UID, or empty or undecodable transcripts. One message lists all problems.
    """
    audio = list_audio(folder)
    if not audio:
        kinds = " ".join(sorted(AUDIO_SUFFIXES))
        raise DataError(f"{folder}: no audio file in this folder; expected <UID> with one of {kinds}, and <UID>.txt")
    transcripts = [path for path in _visible_files(folder) if path.suffix.lower() == ".txt"]
    wanted = [path for path in audio if path.name not in skip]
    text_of = {path.stem: path for path in transcripts}
    problems = [*_duplicates(audio), *_duplicates(transcripts), *_unpaired(audio, wanted, text_of)]
    texts, bad_texts = _read_texts({path.stem: text_of[path.stem] for path in wanted if path.stem in text_of})
    if problems or bad_texts:
        raise DataError(f"{folder}: " + "\n".join([*problems, *bad_texts]))
    return tuple(sorted((Row(path.stem, path.name, texts[path.stem]) for path in wanted), key=lambda row: row.uid))


def _visible_files(folder: Path) -> list[Path]:
    if not folder.exists():
        raise DataError(f"{folder}: there is no such audio folder; check the path")
    if not folder.is_dir():
        raise DataError(f"{folder}: this is a file; name the folder that holds the recordings")
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.is_file())
    except PermissionError as error:
        raise DataError(f"{folder}: no permission to read this folder") from error


def _duplicates(paths: Sequence[Path]) -> list[str]:
    """Describe files whose UIDs are equal, or would be equal on a file system that ignores case."""
    same: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        same[path.stem.casefold()].append(path.name)
    clashes = [" = ".join(names) for names in same.values() if len(names) > 1]
    if not clashes:
        return []
    return [
        f"{len(clashes)} UIDs belong to more than one file: {name_some(clashes)}. Keep one file of each, or rename one."
    ]


def _unpaired(audio: Sequence[Path], wanted: Sequence[Path], text_of: dict[str, Path]) -> list[str]:
    problems = []
    stems = {path.stem for path in audio}
    silent = [f"{path.name} (expected {path.stem}.txt)" for path in wanted if path.stem not in text_of]
    if silent:
        problems.append(
            f"{len(silent)} of {len(wanted)} recordings have no transcript: {name_some(silent)}. "
            "Write what is said into these files, or move the recordings out of the folder."
        )
    orphans = [path.name for stem, path in text_of.items() if stem not in stems]
    if orphans:
        problems.append(
            f"{len(orphans)} transcripts have no recording: {name_some(orphans)}. "
            "Add the recordings, or move these files out of the folder."
        )
    return problems


def _read_texts(paths: dict[str, Path]) -> tuple[dict[str, str], list[str]]:
    """Read transcripts by UID; also return one message for each kind of problem."""
    texts, unreadable, empty = {}, [], []
    for uid, path in paths.items():
        try:
            texts[uid] = one_line(read_text(path))
        except ValueError as error:
            unreadable.append(str(error))
            continue
        if not split_key(texts[uid]):
            empty.append(path.name)
    problems = [f"{len(unreadable)} transcripts cannot be read: {name_some(unreadable)}."] if unreadable else []
    if empty:
        problems.append(
            f"{len(empty)} transcripts are empty (no word): {name_some(empty)}. "
            "Write what is said, or move the recordings with their transcripts out of the folder."
        )
    return texts, problems
