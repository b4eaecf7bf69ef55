"""A folder of recordings -> one small tar.gz: 16 kHz mono FLAC, transcripts and the split. Changes nothing in it.

300 clips of 5 s are about 25 MB. Equal folders give equal bytes, so that a repeated upload is known as the same one.
Knows no server.
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

from asr_lightning.data.audio import AudioError, load
from asr_lightning.data.folder import list_audio, scan_folder
from asr_lightning.data.manifest import CSV_NAMES, HEADER, read_manifest, require_unique
from asr_lightning.data.rows import Row
from asr_lightning.scoring.text import name_some

SAMPLE_RATE = 16_000
COPIED = 1 << 20  # bytes

Progress = Callable[[int, int], None]
"""Called with what is done and the total."""


def pack(folder: Path, target: Path, progress: Progress | None = None) -> str:
    """Write ``folder`` as a tar.gz, and return its sha256.

    Only a split that the folder holds as CSVs is sent; what they do not list is divided on the server. Where all three
    are there, recordings in none of them stay here, as in a local run.

    Args:
        folder: Audio folder; nothing in it is touched.
        target: File to write; left incomplete when this raises.
        progress: Told the recordings done, and their number.

    Raises:
        ValueError: Anything wrong with folder, CSVs or recordings; all recordings that cannot be read are named.
    """
    splits, rows = _rows(folder)
    names = member_names(rows)
    problems: list[str] = []
    with _new_archive(target) as tar:
        for split, listed in splits.items():
            _add(tar, CSV_NAMES[split], _csv(listed, names))
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
    """A recording as 16-bit FLAC, 16 kHz, mono.

    Raises:
        AudioError: It cannot be read.
    """
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, load(recording, SAMPLE_RATE), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def member_names(rows: Sequence[Row]) -> dict[str, str]:
    """The base name in the archive of every ``file_name``: its own, without folders.

    Raises:
        ValueError: Two recordings would get one name, on a disk that ignores case too.
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
    """The sha256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in blocks(file):
            digest.update(block)
    return digest.hexdigest()


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of ``file`` in pieces of 1 MiB."""
    while block := file.read(COPIED):
        yield block


def _rows(folder: Path) -> tuple[Mapping[str, Sequence[Row]], list[Row]]:
    """The rows of each CSV of ``folder``, and every row to send, sorted by file name.

    Raises:
        ValueError: As of ``read_manifest`` and ``scan_folder``.
    """
    list_audio(folder)  # a missing folder is a clearer error than missing CSVs
    present = {split: name for split, name in CSV_NAMES.items() if (folder / name).exists()}
    found = {split: read_manifest(folder / name, folder) for split, name in present.items()}
    entries = [entry for listed in found.values() for entry in listed]
    require_unique(entries)
    rows = [entry.row for entry in entries]
    if len(present) < len(CSV_NAMES):
        listed_names = {row.file_name for row in rows}
        rows += [row for row in scan_folder(folder, skip=listed_names) if row.file_name not in listed_names]
    splits = {split: [entry.row for entry in listed] for split, listed in found.items()}
    return splits, sorted(rows, key=lambda row: row.file_name)


@contextmanager
def _new_archive(target: Path) -> Iterator[tarfile.TarFile]:
    """An empty tar.gz without a name or a time in its header; FLAC does not shrink, so the fastest level."""
    with (
        target.open("xb") as file,
        gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        yield tar


def _csv(rows: Sequence[Row], names: Mapping[str, str]) -> bytes:
    """A split's CSV with the file names that the archive has."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows((row.uid, f"{names[row.file_name]}.flac", row.text) for row in rows)
    return buffer.getvalue().encode()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file that says nothing of this machine: no owner, no time."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(data), 0o600
    tar.addfile(member, io.BytesIO(data))
