"""Packs a folder of recordings into a small tar.gz: 16 kHz mono FLAC, transcripts and the split.

300 clips of 5 s take about 25 MB. Equal folders give equal bytes, so that the server recognizes a repeated upload. The
folder is not changed.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from asr_lightning.data.audio import AudioError, load, to_pcm16
from asr_lightning.data.folder import list_audio, scan_folder
from asr_lightning.data.manifest import CSV_NAMES, HEADER, read_manifest, require_unique
from asr_lightning.data.rows import Row
from asr_lightning.scoring.text import name_some

SAMPLE_RATE = 16_000
BLOCK_BYTES = 1 << 20

Progress = Callable[[int, int], None]
"""Called with the amount that is done and the total."""


def pack(folder: Path, target: Path, progress: Progress | None = None) -> str:
    """Pack ``folder`` into a tar.gz, and return the sha256 of the archive.

    If the folder has CSVs of the split, they are sent along, and the server splits only the recordings that they do not
    list. If all three CSVs are there, recordings that none of them lists are not sent; a local run ignores them too.

    Args:
        folder: Audio folder; nothing in it is changed.
        target: File to write; it stays incomplete if this raises.
        progress: Called with the number of packed recordings and the total.

    Raises:
        ValueError: Something is wrong with the folder, its CSVs or its recordings; the message names all recordings
            that cannot be read.
    """
    splits, rows = _read_rows(folder)
    names = member_names(rows)
    problems: list[str] = []
    with _new_archive(target) as tar:
        for split, split_rows in splits.items():
            _add(tar, CSV_NAMES[split], _csv(split_rows, names))
        for number, row in enumerate(rows, 1):
            try:
                _add(tar, f"{names[row.file_name]}.flac", flac(folder / row.file_name))
                _add(tar, f"{names[row.file_name]}.txt", f"{row.text}\n".encode())
            except AudioError as error:
                problems.append(str(error))
            if progress:
                progress(number, len(rows))
    if problems:
        raise ValueError(f"{folder}: {len(problems)} recordings cannot be used:\n" + name_some(problems, "\n"))
    return sha256_of(target)


def flac(recording: Path) -> bytes:
    """The recording as 16-bit FLAC, 16 kHz, mono.

    Raises:
        AudioError: The recording cannot be read.
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, to_pcm16(load(recording, SAMPLE_RATE)), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def member_names(rows: Sequence[Row]) -> dict[str, str]:
    """The name that each ``file_name`` gets in the archive: its base name, without folders and suffix.

    Raises:
        ValueError: Two recordings would get the same name, at least on a disk that ignores case.
    """
    names = {row.file_name: PurePosixPath(row.file_name).stem for row in rows}
    first: dict[str, str] = {}
    clashes = [
        f"{first[name.casefold()]} and {file_name}"
        for file_name, name in names.items()
        if first.setdefault(name.casefold(), file_name) != file_name
    ]
    if clashes:
        raise ValueError(
            f"{len(clashes)} pairs of recordings would have one name in the archive: {name_some(clashes)}. "
            "Rename one of each, and in its CSV as well."
        )
    return names


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in blocks(file):
            digest.update(block)
    return digest.hexdigest()


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of ``file``, in blocks of 1 MiB."""
    while block := file.read(BLOCK_BYTES):
        yield block


def _read_rows(folder: Path) -> tuple[Mapping[str, Sequence[Row]], list[Row]]:
    """The rows of each CSV in ``folder``, and the rows of all recordings to send, sorted by file name.

    Raises:
        ValueError: ``read_manifest`` or ``scan_folder`` refuses the folder.
    """
    list_audio(folder)  # first, because its error about a missing folder is clearer
    present = {split: name for split, name in CSV_NAMES.items() if (folder / name).exists()}
    manifests = {split: read_manifest(folder / name, folder) for split, name in present.items()}
    entries = [entry for manifest in manifests.values() for entry in manifest]
    require_unique(entries)
    rows = [entry.row for entry in entries]
    if len(present) < len(CSV_NAMES):
        listed_names = {row.file_name for row in rows}
        rows += [row for row in scan_folder(folder, skip=listed_names) if row.file_name not in listed_names]
    splits = {split: [entry.row for entry in manifest] for split, manifest in manifests.items()}
    return splits, sorted(rows, key=lambda row: row.file_name)


@contextmanager
def _new_archive(target: Path) -> Iterator[tarfile.TarFile]:
    """A new tar.gz without a name or a time in its header; at the fastest level, because FLAC does not shrink."""
    with (
        target.open("xb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        yield tar


def _csv(rows: Sequence[Row], names: Mapping[str, str]) -> bytes:
    """The CSV of a split, with the names that its recordings have in the archive."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((row.uid, f"{names[row.file_name]}.flac", row.text) for row in rows)
    return buffer.getvalue().encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file whose header gives away nothing about this machine: it has no owner and no time."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    tar.addfile(member, io.BytesIO(data))
