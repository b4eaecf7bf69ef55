"""The folder of a new job, made in another place and moved to its own in one step; ``request.json`` describes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from asr_lightning.durable import faults
from asr_lightning.durable.files import read_json, sync_folder, write_json
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Job


@dataclass(frozen=True)
class Submission:
    """What a client submitted, from which a lost store is rebuilt.

    Attributes:
        id: Id of the job.
        created_at: UTC, ISO 8601.
        spec: What to train.
        source: See ``Job.source``.
        key: The client's Idempotency-Key, if it sent one, after ``scoped``.
        body_hash: Hash of the whole request, which tells a retry from another request with the same key.
        owner: See ``Job.owner``; files of earlier versions have none.
    """

    id: str
    created_at: str
    spec: JobSpec
    source: str
    key: str | None
    body_hash: str
    owner: str | None = None

    @classmethod
    def from_job(cls, job: Job, key: str | None, body_hash: str) -> Submission:
        """The submission of ``job``."""
        return cls(job.id, job.created_at, job.spec, job.source, key, body_hash, job.owner)

    def write(self, folder: Path, archive_sha256: str, archive_bytes: int) -> None:
        """Write the ``request.json`` of a job.

        Raises:
            OSError: The file cannot be written.
        """
        content = {
            "id": self.id, "created_at": self.created_at, "spec": self.spec.as_dict(), "source": self.source,
            "archive": {"sha256": archive_sha256, "size": archive_bytes}, "key": self.key, "body_hash": self.body_hash,
            "owner": self.owner,
        }  # fmt: skip
        write_json(folder / layout.REQUEST, content)

    @classmethod
    def read(cls, folder: Path) -> Submission | None:
        """The submission of the job in ``folder``; None if the file is missing, damaged or of another job."""
        return cls.from_json(read_json(folder / layout.REQUEST), folder.name)

    @classmethod
    def from_json(cls, document: Mapping[str, object] | None, job_id: str) -> Submission | None:
        """The submission of the job ``job_id`` that ``document`` holds; None if it holds none."""
        if document is None or document.get("id") != job_id:
            return None
        key, owner = document.get("key"), document.get("owner")
        try:
            return cls(
                id=job_id,
                created_at=datetime.fromisoformat(str(document.get("created_at"))).isoformat(timespec="milliseconds"),
                spec=JobSpec.from_json(document.get("spec")),
                source=str(document["source"]),
                key=key if isinstance(key, str) else None,
                body_hash=str(document.get("body_hash") or ""),
                owner=owner if isinstance(owner, str) else None,
            )
        except (KeyError, TypeError, ValueError):
            return None


def scoped(key: str | None, owner: str | None) -> str | None:
    """The Idempotency-Key as the store holds it: two names may use the same one. A client's key holds no space."""
    return key if key is None or owner is None else f"{owner} {key}"


def fill(home: Home, submission: Submission, archive: Path, archive_sha256: str) -> Path:
    """Make the folder of a job with its archive and request; it is whole and on the disk when this returns.

    Raises:
        OSError: The folder cannot be written. Nothing of it is left, and the archive is where it was.
    """
    aside, folder = home.uploads / submission.id, home.job(submission.id)
    size = archive.stat().st_size
    target = aside / layout.ARCHIVE
    try:
        target.parent.mkdir(parents=True, mode=0o700)
        aside.chmod(0o700)
        faults.point("submit.folder")
        with archive.open("rb") as file:
            os.fsync(file.fileno())
        archive.rename(target)
        faults.point("submit.archive")
        sync_folder(target.parent)
        submission.write(aside, archive_sha256, size)
        faults.point("submit.request")
        aside.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        undo(home, folder if folder.exists() else aside, archive)
        raise
    return folder


def undo(home: Home, folder: Path, archive: Path) -> None:
    """Undo ``fill``: move the archive back to where it was, and delete the folder.

    The folder first leaves the jobs, in one step: the next start would take it up as a job there.
    """
    aside = home.uploads / folder.name
    if folder != aside and folder.exists():
        folder.rename(aside)
        sync_folder(folder.parent)
    if (aside / layout.ARCHIVE).exists():
        (aside / layout.ARCHIVE).rename(archive)
    home.discard(aside)
