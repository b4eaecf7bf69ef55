"""The parts of a server that every route works with."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated

import anyio
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from asr_lightning.durable.ids import is_id
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.quota import ByteQuota
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.states import PURGED
from asr_lightning.server.http.callers import Caller, Callers
from asr_lightning.server.http.models import Catalogue
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.settings import ServerSettings
from asr_lightning.server.http.uploads import Upload, no_such_upload
from asr_lightning.server.http.visits import Visit

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
        callers: Finds out who sends a request.
        tensorboard: The TensorBoard of this server; None if it is off.
        stopping: Set when the server is about to stop, so that streams end first.
        inspections: Lets one inspection of a data set run at a time.
        verifications: Limits the threads that compute hashes of artifacts, so that others answer meanwhile.
        visit: The request that this context is for. Each has its own copy, with the same parts.
    """

    engine: Engine
    settings: ServerSettings
    models: Catalogue
    uploads: Uploads
    feed: Feed
    callers: Callers
    tensorboard: TensorBoard | None = None
    stopping: threading.Event = field(default_factory=threading.Event)
    inspections: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1))
    verifications: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(2))
    visit: Visit = field(default_factory=Visit)

    @property
    def caller(self) -> Caller:
        """Who sends the request."""
        return self.visit.caller

    def goes_on(self) -> bool:
        """Whether a stream may continue: the server is not about to stop, and the token is still valid."""
        return not self.stopping.is_set() and self.callers.is_still(self.caller)

    async def job(self, job_id: str) -> Job:
        """The job ``job_id``.

        Raises:
            Problem: There is no such job, or it belongs to a name that the caller is not.
        """
        if not is_id(job_id):
            raise Problem("not_found", "there is no such job")
        return self.seen(await run_in_threadpool(self.engine.job, job_id))

    def seen(self, job: Job) -> Job:
        """``job``, if the caller may see it; the audit log names it in any case.

        Raises:
            Problem: It belongs to another name. The answer equals that for a job that never was.
        """
        self.visit.subject = job.id
        if not self.caller.sees_job(job):
            raise Problem("not_found", "there is no such job")
        return job

    def upload(self, upload_id: str) -> Upload:
        """The upload ``upload_id``.

        Raises:
            Problem: There is no such upload, or it belongs to a name that the caller is not.
        """
        upload = self.uploads.get(upload_id)
        self.visit.subject = upload_id
        if not self.caller.sees(upload.owner):
            raise no_such_upload()
        return upload

    async def require_bytes(self, wanted: int) -> None:
        """Require that the caller may add ``wanted`` bytes to those of its jobs and uploads.

        Raises:
            QuotaError: It would hold more than it may.
        """
        caller = self.caller
        held = self.uploads.held_by(caller.owner)
        await run_in_threadpool(self.engine.usage.require_bytes, caller.owner, caller.quota, wanted, held)

    async def byte_quota(self) -> ByteQuota | None:
        """What the caller's jobs and uploads may hold, with what its jobs hold now; None if nothing limits it."""
        limit, owner = self.caller.quota.max_bytes, self.caller.owner
        if limit is None or owner is None:
            return None
        return ByteQuota(limit, await run_in_threadpool(self.engine.usage.bytes_of, owner))

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
    return replace(context, visit=request.state.visit)


RequestContext = Annotated[Context, Depends(_context_of)]
"""The type of a route's parameter that FastAPI fills with the server's context."""
