"""Computes hashes that identify a data set and its split in a report.

Reads bytes and decodes no audio; imports the standard library only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from asr_lightning.data.rows import Row

Splits = Mapping[str, Sequence[Row]]


def data_sha256(folder: Path, splits: Splits) -> str:
    """Hash of the bytes and transcripts of all recordings, independent of their order and of the split."""
    rows = sorted({row for rows in splits.values() for row in rows}, key=lambda row: row.uid)
    lines = [(row.uid, hashlib.sha256((folder / row.file_name).read_bytes()).hexdigest(), row.text) for row in rows]
    return _digest(lines)


def split_sha256(splits: Splits) -> str:
    """Hash of the names of the recordings in each split."""
    return _digest(sorted((split, row.uid) for split, rows in splits.items() for row in rows))


def _digest(lines: Sequence[tuple[str, ...]]) -> str:
    return hashlib.sha256("\n".join("\t".join(line) for line in lines).encode()).hexdigest()
