"""How much of its quota a name uses: its jobs, their places in the queue, and the bytes that they hold."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from asr_lightning.server.engine import states
from asr_lightning.server.engine.errors import QuotaError
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.quota import UNLIMITED, Quota
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.store import Store

Version = tuple[str, int, str | None]
"""State, attempt and end of a job: while they stay the same, the files of an ended job do too."""


class Usage:
    """What the jobs of a name use. The size of an ended job is remembered, since it does not change."""

    def __init__(self, home: Home, store: Store) -> None:
        self._home, self._store, self._lock = home, store, threading.Lock()
        self._ended: dict[str, tuple[Version, int]] = {}

    def claiming(self, quota: Quota) -> AbstractContextManager[object]:
        """Held from the look at a quota until a job uses it, so that two requests cannot both take what is left."""
        return contextlib.nullcontext() if quota == UNLIMITED else self._lock

    def require_places(self, owner: str | None, quota: Quota) -> None:
        """Require that ``owner`` may have one more job, which waits.

        Raises:
            QuotaError: It has as many as it may.
        """
        self.require_place_in_queue(owner, quota)
        self._require_jobs("max_jobs", quota.max_jobs, owner, states.STATES - {states.PURGED})

    def require_place_in_queue(self, owner: str | None, quota: Quota) -> None:
        """Require that one more job of ``owner`` may wait.

        Raises:
            QuotaError: As many wait or run as may.
        """
        self._require_jobs("max_queued", quota.max_queued, owner, states.ACTIVE)

    def _require_jobs(self, name: str, limit: int | None, owner: str | None, counted: frozenset[str]) -> None:
        if limit is None or owner is None:
            return
        used = len(self._store.jobs(counted, owner=owner))
        if used >= limit:
            raise QuotaError(name, limit, used)

    def require_bytes(self, owner: str | None, quota: Quota, wanted: int, held: int = 0) -> None:
        """Require that ``owner`` may have ``wanted`` more bytes.

        Args:
            owner: A name.
            quota: What it may have.
            wanted: Bytes that it wants to add.
            held: Bytes that it holds in addition to those of its jobs.

        Raises:
            QuotaError: It would have more than it may.
        """
        if quota.max_bytes is None or owner is None:
            return
        used = self.bytes_of(owner) + held
        if used + wanted > quota.max_bytes:
            raise QuotaError("max_bytes", quota.max_bytes, used)

    def bytes_of(self, owner: str) -> int:
        """The bytes that the jobs of ``owner`` hold on the disk."""
        return sum(self._sizes(self._store.jobs(states.STATES - {states.PURGED}, owner=owner)))

    def _sizes(self, jobs: list[Job]) -> Iterator[int]:
        for job in jobs:
            version = (job.state, job.attempt, job.ended_at)
            known = self._ended.get(job.id)
            if known is not None and known[0] == version:
                yield known[1]
                continue
            size = bytes_under(self._home.job(job.id))
            if job.state not in states.ACTIVE:
                self._ended[job.id] = (version, size)
            yield size


def bytes_under(folder: Path) -> int:
    """The size of all files in ``folder`` and below, while a worker may be writing and deleting some of them."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(base, name).lstat().st_size
    return total
