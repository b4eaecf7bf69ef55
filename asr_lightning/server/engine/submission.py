"""A new job's folder: made aside and moved into place in one step."""

from __future__ import annotations

import os
from pathlib import Path

from asr_lightning.durable import faults
from asr_lightning.durable.files import sync_folder, write_json
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Job

ARCHIVE = Path("input", "archive.tar.gz")


def fill(home: Home, job: Job, archive: Path, key: str | None, body_hash: str, digest: str) -> Path:
    """Make the folder of ``job`` with its archive and request; whole and on the disk when this returns.

    Raises:
        OSError: It cannot be written. Nothing of it is left, and the archive is where it was.
    """
    aside, folder = home.uploads / job.id, home.job(job.id)
    request = {
        "id": job.id, "created_at": job.created_at, "spec": job.spec.as_dict(), "source": job.source,
        "archive": {"sha256": digest, "size": archive.stat().st_size}, "key": key, "body_hash": body_hash,
    }  # fmt: skip
    try:
        (aside / "input").mkdir(parents=True, mode=0o700)
        aside.chmod(0o700)
        faults.point("submit.folder")
        with archive.open("rb") as file:
            os.fsync(file.fileno())
        archive.rename(aside / ARCHIVE)
        faults.point("submit.archive")
        sync_folder(aside / "input")
        write_json(aside / "request.json", request)
        faults.point("submit.request")
        aside.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        for path in (aside, folder):
            give_back(home, path, archive)
        raise
    return folder


def give_back(home: Home, folder: Path, archive: Path) -> None:
    """Undo ``fill``: the archive goes back to where it was, and the folder goes."""
    if (folder / ARCHIVE).exists():
        (folder / ARCHIVE).rename(archive)
    home.discard(folder)
