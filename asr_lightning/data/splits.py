"""Reads the splits of an audio folder from its CSV files, and makes and writes those that are missing.

Texts with equal ``split_key`` go into the same split; no split is empty; no file of the user is ever changed. Knows no
content of audio files.
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
from asr_lightning.data.manifest import CSV_NAMES, Entry, read_manifest, require_unique, write_manifests
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
    """Read the rows of train, dev and test; missing CSV files are made and written, others are never changed.

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
    folder = Path(folder)
    require_valid_shares(shares)
    list_audio(folder)  # a missing folder is a clearer error than missing CSVs
    present = _read_present(folder, Path(run_dir) if run_dir else None)
    entries = [entry for split in SPLITS for entry in present.get(split, ())]
    require_unique(entries)
    _warn_of_other_transcripts(folder, entries)
    _require_no_leak(present, allow_text_leak)
    splits = {split: tuple(entry.row for entry in listed) for split, listed in present.items()}
    missing = {split: share for split, share in zip(SPLITS, shares, strict=True) if split not in present}
    if missing:
        made = divide(_unlisted_rows(folder, entries), missing, seed)
        _persist(made, folder, Path(run_dir) if run_dir else None)
        splits |= made
    else:
        used = {entry.row.file_name for entry in entries}
        _log_unused([path.name for path in list_audio(folder) if path.name not in used], "no CSV lists them")
    return {split: splits[split] for split in SPLITS}


def require_valid_shares(shares: Sequence[float]) -> None:
    """Refuse anything but three positive numbers that sum to 1.

    Raises:
        ValueError: ``shares`` are something else; the message names them.
    """
    all_positive = len(shares) == 3 and all(math.isfinite(share) and share > 0 for share in shares)
    if not all_positive or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise OptionError(
            f"--data.shares are three numbers above 0 for train, dev and test that sum to 1, and not {tuple(shares)}; "
            f"the default is {SHARES}"
        )


def divide(rows: Iterable[Row], shares: Mapping[str, float], seed: int) -> Splits:
    """Divide ``rows`` among the splits of ``shares``, as close to the shares as possible, with no split empty.

    Rows with equal texts stay together. Texts are assigned in the order of a seeded hash, those of most rows first,
    each to the split that lacks most rows.

    Args:
        rows: Rows in any order; the result does not depend on it.
        shares: Positive weight of each split.
        seed: Another seed gives another assignment.

    Raises:
        ValueError: There are fewer different texts than splits.
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
    return {split: tuple(sorted(members, key=lambda row: row.uid)) for split, members in result.items()}


def _counts(num_rows: int, shares: Mapping[str, float]) -> dict[str, int]:
    """The number of rows of each split, at least 1: by the largest-remainder method, with the sum ``num_rows``."""
    exact = {split: num_rows * share / sum(shares.values()) for split, share in shares.items()}
    counts = {split: math.floor(value + 1e-9) for split, value in exact.items()}
    by_remainder = sorted(shares, key=lambda split: round(counts[split] - exact[split], 9))  # train first if equal
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
        ValueError: Neither folder can be written.
    """
    try:
        write_manifests(folder, made)
        place = folder
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
        beside = (folder / entry.row.file_name).with_suffix(".txt")
        if not beside.exists():
            continue  # only the CSV has the transcript
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
