"""Who waits for events of a job, and one look at the store for all of them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.errors import NoSuchJobError
from asr_lightning.server.engine.records import Event
from asr_lightning.server.http.problems import Problem

logger = logging.getLogger(__name__)

PAGE = 500


@dataclass
class _Watch:
    """One job that somebody watches."""

    latest: int
    listeners: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Feed:
    """Open streams: bounded in number, and a job's store rows are polled once however many watch it.

    Args:
        engine: Whose events.
        most: Streams at once.
        poll_s: Pause between two looks at one job.
    """

    def __init__(self, engine: Engine, most: int, poll_s: float) -> None:
        self.engine, self.most, self.poll_s, self.open = engine, most, poll_s, 0
        self._watches: dict[str, _Watch] = {}

    @contextmanager
    def seat(self) -> Iterator[None]:
        """One of the streams.

        Raises:
            Problem: All are taken.
        """
        self.check()
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1

    def check(self) -> None:
        """Raise a ``Problem`` where no further stream is taken."""
        if self.open >= self.most:
            raise Problem("unavailable", "too many streams are open: poll instead, or close one")

    @contextmanager
    def watching(self, job_id: str, after: int) -> Iterator[_Watch]:
        """Have ``job_id`` polled for events later than ``after`` while this is open."""
        watch = self._watches.setdefault(job_id, _Watch(after))
        watch.listeners += 1
        if watch.task is None:
            watch.task = asyncio.create_task(self._poll(job_id, watch))
        try:
            yield watch
        finally:
            watch.listeners -= 1
            if not watch.listeners:
                watch.task.cancel()
                self._watches.pop(job_id, None)

    async def next(self, job_id: str, watch: _Watch, after: int, patience_s: float) -> list[Event]:
        """Events later than ``after``; empty where none came within ``patience_s`` seconds.

        Only without patience is the store asked in any case; those who wait are many, and the poll is one.
        """
        if patience_s and watch.latest <= after:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(watch.changed.wait(), patience_s)
            if watch.latest <= after:
                return []
        return await run_in_threadpool(self.engine.events, job_id, after, PAGE)

    async def _poll(self, job_id: str, watch: _Watch) -> None:
        while True:
            try:
                found = await run_in_threadpool(self.engine.events, job_id, watch.latest, PAGE)
            except NoSuchJobError:
                found = []
            except Exception as error:  # a store that is busy for a while must not end the streams
                logger.warning("events of %s cannot be read: %s", job_id, error)
                found = []
            if found:
                watch.latest = found[-1].seq
                watch.changed.set()
                watch.changed = asyncio.Event()
            await asyncio.sleep(self.poll_s)
