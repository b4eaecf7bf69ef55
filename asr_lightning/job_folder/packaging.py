"""A finished run -> what a job hands out: an archive that was read back, the report, and the hash of each file.

Knows no model. Loads no torch.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

from asr_lightning.adapters import registry, saved
from asr_lightning.durable import faults
from asr_lightning.durable.files import sync_folder
from asr_lightning.job_folder.ending import ExportVerificationError

ARCHIVE, SUMS = "model.tar.gz", "SHA256SUMS"
REPORTS = ("report.html", "report.json", "report.md")
HANDED_OUT = ("report.html", "report.json")
README = """# {name}, specialized

{verdict}

| | word error rate before | after |
| --- | --- | --- |
| clips that it never heard: {clips} | {before:.1%} | {after:.1%} |

- Made from: {source}; licence of its weights: {licence}. What you make from them is bound by it as well.
- `model/` is the model: `python -m asr_lightning predict RECORDINGS --model model`.
- `report.html` shows every test clip before and after; it works without a network.
- Treat all of this as personal data: the model has learned one person's voice and may give back phrases that it was
  trained on, and the report holds recordings.
"""


def package(run_dir: Path, target: Path) -> dict[str, str]:
    """Fill ``target`` from the finished run in ``run_dir``; it appears as a whole, and only if the archive is right.

    Returns:
        sha256 by name of each file in ``target``.

    Raises:
        ExportVerificationError: The archive does not hold what the run does.
        OSError: Something cannot be read or written.
    """
    digests: dict[str, str] = {}

    def write(folder: Path) -> None:
        members = contents(run_dir)
        expected = {name: hashlib.sha256(data).hexdigest() for name, data in _small(members).items()}
        expected |= {name: _sha256(path) for name, path in members.items() if isinstance(path, Path)}
        pack(members, folder / ARCHIVE)
        faults.point("training.packed")
        verify(folder / ARCHIVE, expected)
        for name in HANDED_OUT:
            shutil.copyfile(run_dir / name, folder / name)
        digests.update({name: _sha256(folder / name) for name in (ARCHIVE, *HANDED_OUT)})
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
        (folder / SUMS).write_text(lines, encoding="utf-8")
        digests[SUMS] = _sha256(folder / SUMS)
        _sync(folder)

    saved.replace(target, write)
    sync_folder(target.parent)
    return digests


def contents(run_dir: Path) -> dict[str, Path | bytes]:
    """What goes into the archive: path, or content where no file holds it, by name; sorted."""
    model = run_dir / "model"
    found: dict[str, Path | bytes] = {
        f"model/{path.relative_to(model).as_posix()}": path for path in model.rglob("*") if path.is_file()
    }
    if not found:
        raise ExportVerificationError(f"{model.name} holds no file")
    found |= {name: run_dir / name for name in REPORTS}
    found["README.md"] = readme(json.loads((run_dir / "results.json").read_text(encoding="utf-8"))).encode()
    return dict(sorted(found.items()))


def readme(results: dict[str, Any]) -> str:
    """A model card: what this is, what it is worth, and what it must not be used for."""
    card = registry.card_of(results["model"])
    wer = results["test"]["wer"]
    return README.format(
        name=card.name if card else "A speech recogniser",
        verdict=results["verdict"],
        clips=results["clips"]["test"],
        before=wer["before"],
        after=wer["after"],
        source=card.source if card else Path(results["model"]).name,
        licence=card.licence if card else "see where you got it",
    )


def pack(members: dict[str, Path | bytes], archive: Path) -> None:
    """Write ``members`` into a new gzip tar, the same bytes for the same content."""
    with (
        archive.open("xb") as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=1) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.mode = 0o644
            with _opened(content) as source:
                entry.size = source.seek(0, os.SEEK_END)
                source.seek(0)
                tar.addfile(entry, source)


def verify(archive: Path, expected: dict[str, str]) -> None:
    """Read ``archive`` back from the disk.

    Raises:
        ExportVerificationError: It does not hold exactly the files of ``expected``, sha256 by name.
    """
    found: dict[str, str] = {}
    try:
        with gzip.open(archive) as packed:
            with tarfile.open(fileobj=packed, mode="r|") as tar:
                for entry in tar:
                    content = tar.extractfile(entry) if entry.isreg() else None
                    if content is None or entry.name in found:
                        raise ExportVerificationError(f"{archive.name}: {entry.name} is not one file")
                    found[entry.name] = _digest(content)
            _digest(packed)  # to the end, where gzip keeps its checksum: tarfile stops before
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ExportVerificationError(f"{archive.name} cannot be read back: {error}") from error
    wrong = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if wrong:
        raise ExportVerificationError(f"{archive.name} differs from the model in {', '.join(wrong[:5])}")


def _opened(content: Path | bytes) -> Any:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _small(members: dict[str, Path | bytes]) -> dict[str, bytes]:
    return {name: content for name, content in members.items() if isinstance(content, bytes)}


def _digest(file: Any) -> str:
    """sha256 of an open file; ``hashlib.file_digest`` wants more of it than tarfile's have."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(file)


def _sync(folder: Path) -> None:
    """Make the files of ``folder`` last through a power cut."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
