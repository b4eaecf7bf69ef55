"""``deletions.jsonl``: which jobs were deleted, and when. It holds ids, times and hashes, and nothing of their content.

By it, a deleted job stays deleted although an older store or an older copy of its folder is put back.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from asr_lightning.durable import journal
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Job, now

FILE = "deletions.jsonl"


@dataclass
class Receipts:
    """The deletions in a home.

    Attributes:
        begun: Ids of the jobs whose deletion was asked for.
        done: Ids of those whose deletion ended.
    """

    begun: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)


def read(home: Home) -> Receipts:
    """The deletions in ``home``."""
    receipts = Receipts()
    for entry in journal.read(home.path / FILE).objects:
        job_id, state = str(entry.get("id")), entry.get("state")
        receipts.begun.add(job_id)
        if state == "done":
            receipts.done.add(job_id)
    return receipts


def begin(home: Home, job: Job, files: int, size: int) -> None:
    """Note that the deletion of ``job`` begins. On a full disk this is left out, since deleting must work there."""
    _note(
        home,
        {
            "id": job.id, "state": "begun", "time": now(), "created_at": job.created_at, "ended_at": job.ended_at,
            "artifacts": dict(job.artifacts), "files": files, "bytes": size,
        },
    )  # fmt: skip


def end(home: Home, job_id: str) -> None:
    """Note that the deletion of a job is done."""
    _note(home, {"id": job_id, "state": "done", "time": now()})


def _note(home: Home, entry: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        journal.append(home.path / FILE, [entry])
