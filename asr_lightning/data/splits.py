"""Reads the splits of an audio folder from its CSV files, and makes those that are missing.

Texts with equal ``split_key`` go into the same split; no split is empty; no file of the user is ever changed. What was
made is written in a second step, so that a folder that is refused keeps no file that its owner did not make. Knows no
content of audio files.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from asr_lightning.data.characters import shown
from asr_lightning.data.division import SHARES, SPLITS, Splits, divide, require_valid_shares, shares_of
from asr_lightning.data.folder import list_audio, scan_folder
from asr_lightning.data.manifest import CSV_NAMES, Entry, find_file, read_manifest, require_unique, write_manifests
from asr_lightning.data.rows import Row, one_line, read_text, split_key
from asr_lightning.errors import DataError
from asr_lightning.scoring.text import name_some

log = logging.getLogger(__name__)

READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True)
class Plan:
    """The splits of a folder.

    Attributes:
        splits: Rows of train, dev and test.
        made: Those of the splits that no CSV has yet.
        listed: Names of the CSV files that have the others.
        folder: The audio folder.
        run_dir: Where CSV files are written if ``folder`` is read-only.
    """

    splits: Splits
    made: Splits = field(default_factory=dict)
    listed: tuple[str, ...] = ()
    folder: Path = Path()
    run_dir: Path | None = None

    def write(self) -> None:
        """Write the CSV files that are missing. To be called when all recordings have been inspected.

        Raises:
            ValueError: They cannot be written, or another process has just written others.
        """
        if not self.made:
            return
        try:
            _persist(self.made, self.folder, self.run_dir)
        except FileExistsError as error:
            present = _read_present(self.folder, self.run_dir)
            if any(rows != tuple(entry.row for entry in present.get(split, ())) for split, rows in self.made.items()):
                raise DataError(f"{error}; another process has made a split just now: start again") from error


def plan_splits(
    folder: str | Path,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    run_dir: str | Path | None = None,
    allow_text_leak: bool = False,
) -> Plan:
    """Read the rows of train, dev and test; those without a CSV file are made in memory. Nothing is written.

    Args:
        folder: Audio folder.
        shares: Shares of train, dev and test; positive numbers that sum to 1.
        seed: Seed of the assignment; the order of files in the folder does not matter.
        run_dir: Where new CSV files are written and looked for if ``folder`` is read-only.
        allow_text_leak: Whether to accept CSV files with the same text in train and in dev or test.

    Raises:
        ValueError: The folder or a CSV cannot be used, a text is in train and in dev or test, or there are fewer
            different texts than splits.
    """
    folder, run_dir = Path(folder), Path(run_dir) if run_dir else None
    require_valid_shares(shares)
    if shown(str(folder)) != str(folder):  # no configuration or report could name it
        raise DataError(f"{shown(str(folder))}: the name of this folder is not UTF-8; rename it")
    list_audio(folder)  # a missing folder is a clearer error than missing CSVs
    present = _read_present(folder, run_dir)
    entries = [entry for split in SPLITS for entry in present.get(split, ())]
    require_unique(entries)
    _warn_of_other_transcripts(folder, entries)
    _require_no_leak(present, allow_text_leak)
    splits = {split: tuple(entry.row for entry in listed) for split, listed in present.items()}
    missing = {split: share for split, share in zip(SPLITS, shares, strict=True) if split not in present}
    made: Splits = {}
    if missing:
        rows = _unlisted_rows(folder, entries)
        made = divide(rows, missing if present or tuple(shares) != SHARES else shares_of(rows), seed)
    else:
        used = {entry.row.file_name for entry in entries}
        _log_unused([path.name for path in list_audio(folder) if path.name not in used], "no CSV lists them")
    listed = tuple(CSV_NAMES[split] for split in splits)
    return Plan({split: (splits | made)[split] for split in SPLITS}, made, listed, folder, run_dir)


def prepare_splits(
    folder: str | Path,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    run_dir: str | Path | None = None,
    allow_text_leak: bool = False,
) -> Splits:
    """The splits of ``plan_splits``; missing CSV files are written, without a look at the recordings.

    Raises:
        ValueError: As for ``plan_splits``, or the CSV files cannot be written.
    """
    plan = plan_splits(folder, shares, seed, run_dir, allow_text_leak)
    plan.write()
    return plan.splits


def has_split(folder: Path, run_dir: Path | None = None) -> bool:
    """Whether a CSV of a split exists already, in ``folder`` or, for a read-only one, in the run folder."""
    return any((place / name).exists() for place in (folder, run_dir) if place for name in CSV_NAMES.values())


def _read_present(folder: Path, run_dir: Path | None) -> dict[str, tuple[Entry, ...]]:
    """Read the CSV files of the folder; one that is missing there is looked for in the run folder."""
    present = {}
    for split in SPLITS:
        for directory in (folder, run_dir):
            if directory is not None and (directory / CSV_NAMES[split]).exists():
                present[split] = read_manifest(directory / CSV_NAMES[split], folder)
                break
    return present


def _unlisted_rows(folder: Path, entries: Sequence[Entry]) -> list[Row]:
    """Recordings whose file, UID and text are in none of the ``entries``; log those with a known text or UID."""
    rows = scan_folder(folder, skip={entry.row.file_name for entry in entries})
    uids = {entry.row.uid for entry in entries}
    keys = {split_key(entry.row.text) for entry in entries}
    free = [row for row in rows if row.uid not in uids and split_key(row.text) not in keys]
    _log_unused([row.file_name for row in rows if row not in free], "a CSV has their text or UID already")
    return free


def _persist(made: Splits, folder: Path, run_dir: Path | None) -> None:
    """Write new CSV files into the audio folder or, if that is read-only, into the run folder.

    Raises:
        FileExistsError: One of them was not there when the split was made.
        ValueError: Neither folder can be written.
    """
    try:
        write_manifests(folder, made)
        place = folder
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise DataError(f"{folder}: the split cannot be written ({error.strerror})") from error
        if run_dir is None:
            raise DataError(
                f"{folder} is read-only, and the split must be written somewhere: give a run folder with --run_dir"
            ) from error
        run_dir.mkdir(parents=True, exist_ok=True)
        write_manifests(run_dir, made)
        place = run_dir
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in made.items())
    log.info("wrote the split (%s) to %s", counts, place)


def _require_no_leak(present: Mapping[str, Sequence[Entry]], allowed: bool) -> None:
    """Refuse a text that is in train and in dev or test, since it makes a gain look larger than it is.

    Raises:
        ValueError: There is such a text, and ``allowed`` is False; the message names texts and lines.
    """
    trained = {split_key(entry.row.text): entry for entry in present.get("train", ())}
    leaks = [
        f"{entry.row.text!r}: {trained[key].place} and {entry.place}"
        for split in ("dev", "test")
        for entry in present.get(split, ())
        if (key := split_key(entry.row.text)) in trained
    ]
    if not leaks:
        return
    message = f"{len(leaks)} texts of dev or test are also in train, so scores would flatter the model:\n"
    message += name_some(leaks, "\n")
    if not allowed:
        raise DataError(f"{message}\nMove equal texts into one CSV, or allow it with --data.allow_text_leak true.")
    log.warning(message)


def _warn_of_other_transcripts(folder: Path, entries: Sequence[Entry]) -> None:
    """Log the rows whose text in the CSV differs from that in the ``.txt`` file; the CSV is used."""
    different = []
    for entry in entries:
        found = find_file(folder, str(PurePosixPath(entry.row.file_name).with_suffix(".txt")))
        if found is None:
            continue  # only the CSV has the transcript
        beside = folder / found
        try:
            if one_line(read_text(beside)) != entry.row.text:
                different.append(f"{entry.place} and {beside.name}")
        except ValueError:
            different.append(f"{entry.place} and {beside.name} (unreadable)")
    if different:
        log.warning("%d transcripts differ, the CSV is used: %s", len(different), name_some(different))


def _log_unused(names: Sequence[str], reason: str) -> None:
    if names:
        listed = name_some(list(map(shown, names)))
        log.warning("%d recordings of the folder are not used, since %s: %s", len(names), reason, listed)
