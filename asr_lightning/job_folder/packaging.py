"""Make the artifacts of a job from its finished run: a verified archive of the model, the report, and checksums.

Knows no model. Loads no torch.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from asr_lightning.adapters import registry, saved
from asr_lightning.durable import faults
from asr_lightning.durable.files import sync_folder
from asr_lightning.job_folder.digests import stream_digest
from asr_lightning.job_folder.failure import ExportVerificationError
from asr_lightning.job_folder.layout import CHECKSUMS, MODEL_ARCHIVE, REPORT_HTML, REPORT_JSON

COPIED = (REPORT_HTML, REPORT_JSON)
IN_ARCHIVE = (*COPIED, "report.md")
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
    """Fill ``target`` from the finished run in ``run_dir``. It appears as a whole, and only if the archive is right.

    Returns:
        The SHA-256 of each file in ``target``, by name.

    Raises:
        ExportVerificationError: The archive does not hold what the run does.
        OSError: A file cannot be read or written.
    """
    digests: dict[str, str] = {}

    def write(folder: Path) -> None:
        members = contents(run_dir)
        expected = {name: _content_digest(content) for name, content in members.items()}
        pack(members, folder / MODEL_ARCHIVE)
        faults.point("training.packed")
        verify(folder / MODEL_ARCHIVE, expected)
        for name in COPIED:
            shutil.copyfile(run_dir / name, folder / name)
        digests.update({name: _content_digest(folder / name) for name in (MODEL_ARCHIVE, *COPIED)})
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
        (folder / CHECKSUMS).write_text(lines, encoding="utf-8")
        digests[CHECKSUMS] = _content_digest(folder / CHECKSUMS)
        _sync(folder)

    saved.replace(target, write)
    sync_folder(target.parent)
    return digests


def contents(run_dir: Path) -> dict[str, Path | bytes]:
    """The members of the archive, sorted by name: a path, or the bytes of a member that no file holds."""
    model = run_dir / "model"
    members: dict[str, Path | bytes] = {
        f"model/{path.relative_to(model).as_posix()}": path for path in model.rglob("*") if path.is_file()
    }
    if not members:
        raise ExportVerificationError(f"{model.name} holds no file")
    members |= {name: run_dir / name for name in IN_ARCHIVE}
    members["README.md"] = readme(json.loads((run_dir / "results.json").read_text(encoding="utf-8"))).encode()
    return dict(sorted(members.items()))


def readme(results: Mapping[str, Any]) -> str:
    """A model card from ``results.json``: what the model is, how good it is, and what it must not be used for."""
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


def pack(members: Mapping[str, Path | bytes], archive: Path) -> None:
    """Write ``members`` into a new gzip tar archive; the same content gives the same bytes."""
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


def verify(archive: Path, expected: Mapping[str, str]) -> None:
    """Read ``archive`` back from the disk.

    Args:
        archive: The packed model.
        expected: The SHA-256 of each member, by name.

    Raises:
        ExportVerificationError: The archive cannot be read, or does not hold exactly these members.
    """
    digests: dict[str, str] = {}
    try:
        with gzip.open(archive) as packed:
            with tarfile.open(fileobj=packed, mode="r|") as tar:
                for entry in tar:
                    content = tar.extractfile(entry) if entry.isreg() else None
                    if content is None or entry.name in digests:
                        raise ExportVerificationError(f"{archive.name}: {entry.name} is not one file")
                    digests[entry.name] = stream_digest(content)
            stream_digest(packed)  # to the end, where gzip keeps its checksum: tarfile stops before
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ExportVerificationError(f"{archive.name} cannot be read back: {error}") from error
    wrong = sorted(name for name in {*digests, *expected} if digests.get(name) != expected.get(name))
    if wrong:
        raise ExportVerificationError(f"{archive.name} differs from the model in {', '.join(wrong[:5])}")


def _opened(content: Path | bytes) -> BinaryIO:
    return io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def _content_digest(content: Path | bytes) -> str:
    with _opened(content) as file:
        return stream_digest(file)


def _sync(folder: Path) -> None:
    """Make sure that the files of ``folder`` survive a power cut."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    sync_folder(folder)
