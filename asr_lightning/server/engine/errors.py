"""The errors that the engine raises. The HTTP layer turns each into one problem code."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asr_lightning.server.engine.records import Job


class NoSuchJobError(LookupError):
    """There is no job with this id."""


class WrongStateError(RuntimeError):
    """The job's state does not allow the requested action.

    Attributes:
        job: The job as it is now.
    """

    def __init__(self, job: Job, wanted: str) -> None:
        super().__init__(f"job {job.id} is {job.state} and cannot be {wanted}")
        self.job = job


class BusyError(RuntimeError):
    """Another job is active, or the queue is full.

    Attributes:
        current: Id of the active job, if there is one.
    """

    def __init__(self, message: str, current: str | None) -> None:
        super().__init__(message)
        self.current = current


class QuotaError(RuntimeError):
    """What the owner of a job may have on this server is used up.

    Attributes:
        name: Which part of its quota: "max_jobs", "max_queued" or "max_bytes".
        limit: The quota.
        used: How much of it is in use.
    """

    def __init__(self, name: str, limit: int, used: int) -> None:
        super().__init__(f"{name} is {limit}, and {used} are in use")
        self.name, self.limit, self.used = name, limit, used


class KeyConflictError(ValueError):
    """The Idempotency-Key was used for another request."""


class DiskFullError(OSError):
    """Too little space is left on the disk of the server's home."""


class HomeError(OSError):
    """The server's home cannot be used; the message says what to do."""
