"""What one name may have on the server: jobs, places in the queue, and bytes."""

from __future__ import annotations

from dataclasses import dataclass

from asr_lightning.server.engine.errors import QuotaError


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


@dataclass(frozen=True)
class ByteQuota:
    """What one name may hold on the disk, while it adds bytes.

    Attributes:
        limit: Largest number of bytes.
        used: Bytes that its jobs hold.
    """

    limit: int
    used: int

    def require(self, wanted: int, held: int) -> None:
        """Require that ``wanted`` more bytes may arrive beside the ``held`` ones of uploads.

        Raises:
            QuotaError: The name would hold more than it may.
        """
        if self.used + held + wanted > self.limit:
            raise QuotaError("max_bytes", self.limit, self.used + held)
