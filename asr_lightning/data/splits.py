"""Train, dev and test of an audio folder: the CSVs that are there, else seeded, text-disjoint, persisted ones.

Equal ``split_key``, equal split; no split is empty; no file of the user is ever changed. Knows no audio content.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from asr_lightning.data.folder import list_audio, scan_folder
from asr_lightning.data.manifest import CSV_NAMES, Entry, check_unique, read_manifest, write_manifests
from asr_lightning.data.rows import Row, one_line, read_text, split_key
from asr_lightning.errors import DataError, OptionError
from asr_lightning.scoring.text import name_some

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")
SHARES = (0.7, 0.2, 0.1)
READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}

Splits = dict[str, tuple[Row, ...]]


def prepare_splits(
    folder: str | Path,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    run_dir: str | Path | None = None,
    allow_text_leak: bool = False,
) -> Splits:
    """The rows of train, dev and test; CSVs that are missing are made and written, present ones are kept as they are.

    Args:
        folder: Audio folder.
        shares: Of train, dev and test; each positive, together 1.
        seed: Of the assignment; the order of the directory never matters.
        run_dir: Where new CSVs go, and are looked for, when ``folder`` cannot be written.
        allow_text_leak: Accept CSVs that put one text into train and into dev or test.

    Raises:
        ValueError: Anything wrong with folder or CSVs, one text on both sides, or fewer different texts than splits.
    """
    folder = Path(folder)
    check_shares(shares)
    list_audio(folder)  # a missing folder is a clearer error than missing CSVs
    present = _read_present(folder, Path(run_dir) if run_dir else None)
    entries = [entry for split in SPLITS for entry in present.get(split, ())]
    check_unique(entries)
    _warn_of_other_transcripts(folder, entries)
    _check_leak(present, allow_text_leak)
    splits = {split: tuple(entry.row for entry in found) for split, found in present.items()}
    missing = {split: share for split, share in zip(SPLITS, shares, strict=True) if split not in present}
    if missing:
        made = divide(_unlisted_rows(folder, entries), missing, seed)
        _persist(made, folder, Path(run_dir) if run_dir else None)
        splits |= made
    else:
        listed = {entry.row.file_name for entry in entries}
        _log_unused([path.name for path in list_audio(folder) if path.name not in listed], "no CSV lists them")
    return {split: splits[split] for split in SPLITS}


def check_shares(shares: Sequence[float]) -> None:
    """Refuse anything but three positive numbers that sum to 1.

    Raises:
        ValueError: Says what was given.
    """
    sane = len(shares) == 3 and all(math.isfinite(share) and share > 0 for share in shares)
    if not sane or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise OptionError(
            f"shares must be three positive numbers for train, dev and test that sum to 1, but are {tuple(shares)}; "
            f"the default is {SHARES}"
        )


def divide(rows: Iterable[Row], shares: Mapping[str, float], seed: int) -> Splits:
    """Deal ``rows`` to the splits of ``shares``: counts as near as equal texts allow, never an empty split.

    Texts are dealt in the order of a seeded hash, the often repeated first, each to the split that lacks most.

    Args:
        rows: In any order; the result does not depend on it.
        shares: Positive weight of each split.
        seed: Another seed gives another assignment.

    Raises:
        ValueError: Fewer different texts than splits.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.uid):
        groups[split_key(row.text)].append(row)
    num_rows = sum(map(len, groups.values()))
    if len(groups) < len(shares):
        raise DataError(
            f"cannot make {len(shares)} splits ({', '.join(shares)}) out of {len(groups)} different texts in "
            f"{num_rows} recordings that are free: equal texts must stay in one split, and none may be empty. "
            f"Record at least {len(shares)} different texts."
        )
    lacking = _counts(num_rows, shares)
    result: dict[str, list[Row]] = {split: [] for split in shares}
    order = sorted(groups, key=lambda key: (-len(groups[key]), _hash(seed, key)))
    for position, key in enumerate(order):
        empty = [split for split in shares if not result[split]]
        choices = empty if len(order) - position <= len(empty) else list(shares)
        split = max(choices, key=lambda name: lacking[name])
        result[split] += groups[key]
        lacking[split] -= len(groups[key])
    return {split: tuple(sorted(dealt, key=lambda row: row.uid)) for split, dealt in result.items()}


def _counts(num_rows: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that sum to ``num_rows``, by largest remainder, each at least 1."""
    exact = {split: num_rows * share / sum(shares.values()) for split, share in shares.items()}
    counts = {split: math.floor(value + 1e-9) for split, value in exact.items()}
    by_remainder = sorted(shares, key=lambda split: round(counts[split] - exact[split], 9))  # equal: train first
    for split in by_remainder[: num_rows - sum(counts.values())]:
        counts[split] += 1
    for split in shares:
        if not counts[split]:
            counts[max(counts, key=lambda name: counts[name])] -= 1
            counts[split] = 1
    return counts


def _hash(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}\n{key}".encode()).hexdigest()


def _read_present(folder: Path, run_dir: Path | None) -> dict[str, tuple[Entry, ...]]:
    """The CSVs of the folder; one that is missing there is looked for in the run folder."""
    found = {}
    for split in SPLITS:
        for directory in (folder, run_dir):
            if directory is not None and (directory / CSV_NAMES[split]).exists():
                found[split] = read_manifest(directory / CSV_NAMES[split], folder)
                break
    return found


def _unlisted_rows(folder: Path, entries: Sequence[Entry]) -> list[Row]:
    """Recordings whose file, UID and text no present CSV lists; the left-out ones are logged."""
    rows = scan_folder(folder, skip={entry.row.file_name for entry in entries})
    uids = {entry.row.uid for entry in entries}
    keys = {split_key(entry.row.text) for entry in entries}
    free = [row for row in rows if row.uid not in uids and split_key(row.text) not in keys]
    _log_unused([row.file_name for row in rows if row not in free], "a CSV has their text or UID already")
    return free


def _persist(made: Splits, folder: Path, run_dir: Path | None) -> None:
    """Write into the audio folder or, where that is read-only, into the run folder.

    Raises:
        ValueError: Neither can be written.
    """
    try:
        write_manifests(folder, made)
        place = folder
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise DataError(f"{folder}: the split cannot be written ({error.strerror})") from error
        if run_dir is None:
            raise DataError(
                f"{folder} is read-only, and the split must be kept somewhere: give a run folder (run_dir)"
            ) from error
        run_dir.mkdir(parents=True, exist_ok=True)
        write_manifests(run_dir, made)
        place = run_dir
    counts = ", ".join(f"{len(rows)} {split}" for split, rows in made.items())
    log.info("wrote the split (%s) to %s", counts, place)


def _check_leak(present: Mapping[str, Sequence[Entry]], allowed: bool) -> None:
    """Refuse one text in train and in dev or test: it makes a gain look larger than it is.

    Raises:
        ValueError: Names texts and lines, unless ``allowed``.
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
        raise DataError(f"{message}\nMove equal texts into one CSV, or allow it with allow_text_leak=True.")
    log.warning(message)


def _warn_of_other_transcripts(folder: Path, entries: Sequence[Entry]) -> None:
    """Name the rows whose CSV text is not that of the ``.txt`` beside the recording; the CSV counts."""
    different = []
    for entry in entries:
        beside = (folder / entry.row.file_name).with_suffix(".txt")
        if not beside.exists():
            continue  # the CSV holds the transcript
        try:
            if one_line(read_text(beside)) != entry.row.text:
                different.append(f"{entry.place} and {beside.name}")
        except ValueError:
            different.append(f"{entry.place} and {beside.name} (unreadable)")
    if different:
        log.warning("%d transcripts differ, the CSV is used: %s", len(different), name_some(different))


def _log_unused(names: Sequence[str], reason: str) -> None:
    if names:
        log.warning("%d recordings of the folder are not used, since %s: %s", len(names), reason, name_some(names))
