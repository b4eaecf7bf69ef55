"""The open streams of events: all streams of one job share one poll of the store."""

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
    """A job that at least one stream watches."""

    latest: int
    listeners: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Feed:
    """The open streams, whose number is limited. A job is polled once, however many streams watch it.

    Args:
        engine: The job engine.
        max_streams: Largest number of open streams.
        poll_s: Seconds between two polls of one job.

    Attributes:
        open: Number of open streams.
    """

    def __init__(self, engine: Engine, max_streams: int, poll_s: float) -> None:
        self.engine, self.max_streams, self.poll_s, self.open = engine, max_streams, poll_s, 0
        self._watches: dict[str, _Watch] = {}

    def take_seat(self) -> None:
        """Count one open stream; ``leave_seat`` must follow.

        Raises:
            Problem: Too many streams are open.
        """
        if self.open >= self.max_streams:
            raise Problem("unavailable", "too many streams are open: poll instead, or close one")
        self.open += 1

    def leave_seat(self) -> None:
        """Count one open stream less."""
        self.open -= 1

    @contextmanager
    def watching(self, job_id: str, after: int) -> Iterator[_Watch]:
        """Poll ``job_id`` for events with a number above ``after`` while this is open."""
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
        """The events with a number above ``after``; empty if none came within ``patience_s`` seconds.

        With a ``patience_s`` of 0, this asks the store itself. Otherwise it waits for the poll that all streams share.
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
                new = await run_in_threadpool(self.engine.events, job_id, watch.latest, PAGE)
            except NoSuchJobError:
                new = []
            except Exception as error:  # a store that is busy for a while must not end the streams
                logger.warning("events of %s cannot be read: %s", job_id, error)
                new = []
            if new:
                watch.latest = new[-1].seq
                watch.changed.set()
                watch.changed = asyncio.Event()
            await asyncio.sleep(self.poll_s)
