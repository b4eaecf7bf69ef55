"""What one name may have on the server: jobs, places in the queue, and bytes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quota:
    """What one name may have at the same time; None is no limit.

    Attributes:
        max_jobs: Jobs that were not deleted.
        max_queued: Jobs that wait or run.
        max_bytes: Bytes on the disk: of its jobs with their recordings, checkpoints and models, and of open uploads.
    """

    max_jobs: int | None = None
    max_queued: int | None = None
    max_bytes: int | None = None


UNLIMITED = Quota()
