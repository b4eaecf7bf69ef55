"""What every route works with."""

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
    """Everything of one server.

    Attributes:
        engine: The jobs.
        settings: The operator's.
        models: What may be asked for.
        uploads: Resumable ones.
        feed: Tells of new events.
        tensorboard: None where it is off.
        stopping: Set when the server is about to end, so that streams end first.
        checks: Bounds the data checks that run at once.
    """

    engine: Engine
    settings: ServerSettings
    models: Catalogue
    uploads: Uploads
    feed: Feed
    tensorboard: TensorBoard | None = None
    stopping: bool = False
    checks: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))

    async def job(self, job_id: str) -> Job:
        """The job ``job_id``.

        Raises:
            Problem: There is none.
        """
        if not is_id(job_id):
            raise Problem("not_found", "there is no such job")
        return await run_in_threadpool(self.engine.job, job_id)

    async def kept(self, job_id: str) -> Job:
        """The job ``job_id``, with its files.

        Raises:
            Problem: There is none, or it was deleted.
        """
        job = await self.job(job_id)
        if job.state == PURGED:
            raise Problem("purged", "the job was deleted with all its files")
        return job


async def _of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


Here = Annotated[Context, Depends(_of)]
