"""The parts of a server that every route works with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import anyio
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from asr_lightning.durable.ids import is_id
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.states import PURGED
from asr_lightning.server.http.models import Catalogue
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.settings import ServerSettings

if TYPE_CHECKING:
    from asr_lightning.server.http.feed import Feed
    from asr_lightning.server.http.tensorboard import TensorBoard
    from asr_lightning.server.http.uploads import Uploads


@dataclass
class Context:
    """The parts of one server.

    Attributes:
        engine: The job engine.
        settings: The operator's settings.
        models: The models that clients may ask for.
        uploads: The open resumable uploads.
        feed: The open streams of events.
        tensorboard: The TensorBoard of this server; None if it is off.
        stopping: Set when the server is about to stop, so that streams end first.
        inspections: Lets one inspection of a data set run at a time.
        verifications: Limits the threads that compute hashes of artifacts, so that others answer meanwhile.
    """

    engine: Engine
    settings: ServerSettings
    models: Catalogue
    uploads: Uploads
    feed: Feed
    tensorboard: TensorBoard | None = None
    stopping: bool = False
    inspections: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))
    verifications: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(2))

    async def job(self, job_id: str) -> Job:
        """The job ``job_id``.

        Raises:
            Problem: There is no such job.
        """
        if not is_id(job_id):
            raise Problem("not_found", "there is no such job")
        return await run_in_threadpool(self.engine.job, job_id)

    async def job_with_files(self, job_id: str) -> Job:
        """The job ``job_id``, whose files must still exist.

        Raises:
            Problem: There is no such job, or it was deleted.
        """
        job = await self.job(job_id)
        if job.state == PURGED:
            raise Problem("purged", "the job was deleted with all its files")
        return job


async def _context_of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


RequestContext = Annotated[Context, Depends(_context_of)]
"""The type of a route's parameter that FastAPI fills with the server's context."""
