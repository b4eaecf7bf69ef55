"""Take a new job from a request: a form with the data, or JSON that names an earlier upload."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from asr_lightning.job_folder.spec import MAX_EPOCHS, MAX_SEED, JobSpec
from asr_lightning.server.engine.errors import BusyError
from asr_lightning.server.engine.records import PREDECESSOR, V1, Job, Source
from asr_lightning.server.engine.states import ACTIVE
from asr_lightning.server.engine.submission import scoped
from asr_lightning.server.http import fields, forms
from asr_lightning.server.http.context import Context
from asr_lightning.server.http.problems import Problem, busy, invalid
from asr_lightning.server.http.responses import BINARY
from asr_lightning.server.http.uploads import Upload

LANGUAGE = {"type": "string", "description": "a code such as en or de, for multilingual models"}
EPOCHS = {"type": "integer", "minimum": 1, "maximum": MAX_EPOCHS, "description": "Without it, the recipe of the model."}
SEED_NUMBER = {"type": "integer", "minimum": 0, "maximum": MAX_SEED, "default": 0}
DATA = {**BINARY, "description": "a .tar.gz of audio files, and of text files with the same base names"}
KEY_HEADER = {
    "name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string", "maxLength": 255},
    "description": "a retry with the same key and the same request finds the job instead of making another",
}  # fmt: skip


async def by_form(request: Request, context: Context, source: Source) -> tuple[Job, bool]:
    """Take a job from a form that holds its data.

    Raises:
        Problem: The request is refused.
    """
    key = fields.idempotency_key(request)
    forms.boundary(request)
    names = fields.PREDECESSOR if source == PREDECESSOR else fields.V1
    model = "base_model_name" if source == PREDECESSOR else "model"
    if key is None:  # with a key, it may be a retry of the job that is active
        try:
            await require_room(context, source)
            await context.require_bytes(announced(request))
        except Problem:
            await _require_right_fields(request, context, names, model)
            raise
    path = await run_in_threadpool(context.engine.new_upload)
    async with forms.received(request, names, path, context.settings.min_free_bytes) as form:
        spec = fields.spec(form.fields, context.models, model)
        return await _submit(context, spec, path, key, source)


async def _require_right_fields(request: Request, context: Context, names: frozenset[str], model: str) -> None:
    """Refuse wrong fields of a form that is refused in any case, so that the client need not wait to learn of them.

    Only the beginning of the form is read, in which the fields are unless the client put them after the data.

    Raises:
        Problem: A field is wrong.
    """
    begun = await forms.beginning(request, names)
    values: dict[str, object] = dict(begun.fields)
    if model not in values and not begun.whole:  # it may follow, and decides which languages there are
        values[model] = next(iter(context.models.sources))
        values.pop("language", None)
    fields.spec(values, context.models, model)


async def by_upload(request: Request, context: Context) -> tuple[Job, bool]:
    """Take a job from JSON that names an upload.

    Raises:
        Problem: The request is refused.
    """
    key = fields.idempotency_key(request)
    values = await fields.json_object(request, fields.V1 | {"upload"})
    name = values.pop("upload", None)
    if not isinstance(name, str):
        raise invalid("upload", "name an upload: POST /v1/uploads begins one")
    spec = fields.spec(values, context.models)
    try:
        upload = context.upload(name)
    except Problem:
        stored = scoped(key, context.caller.owner)
        earlier = await run_in_threadpool(context.engine.store.keyed, stored) if stored is not None else None
        if earlier is None or earlier.spec != spec:
            raise
        return await context.job(earlier.id), False  # the upload became the data of that job
    return await _take_upload(context, upload, spec, key)


async def _take_upload(context: Context, upload: Upload, spec: JobSpec, key: str | None) -> tuple[Job, bool]:
    if upload.lock.locked():
        raise Problem("busy", "bytes are arriving", {"Retry-After": "1"}, received=upload.received)
    async with upload.lock:
        if not upload.received or (upload.size is not None and upload.received != upload.size):
            missing = "its first byte" if upload.size is None else f"all of its {upload.size} bytes"
            raise invalid("upload", f"the upload has {upload.received} bytes: send {missing} first")
        taken = await _submit(context, spec, upload.path, key, V1)
        await context.uploads.discard(upload)  # a refused upload stays
    return taken


async def _submit(context: Context, spec: JobSpec, path: Path, key: str | None, source: Source) -> tuple[Job, bool]:
    """Make the job of the caller, whose ``key`` is its own."""
    caller = context.caller
    try:
        job, is_new = await run_in_threadpool(
            context.engine.submit, spec, path, key=key, source=source, owner=caller.owner, quota=caller.quota
        )
    except BusyError as error:
        raise await _busy(context, error.current) from error
    context.visit.subject = job.id
    return job, is_new


async def _busy(context: Context, current: str | None) -> Problem:
    """The problem that the job ``current`` is active, which is not named to a caller that may not see it."""
    subject = context.visit.subject
    try:
        return busy(None if current is None else (await context.job(current)).id)
    except Problem:
        return Problem("busy", "a job of somebody else is active: try again later", training_id=None)
    finally:
        context.visit.subject = subject


def announced(request: Request) -> int:
    """The number of bytes that the body of ``request`` is to have; 1 if it does not say."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else 1


async def require_room(context: Context, source: Source) -> None:
    """Refuse a job that the store would refuse, before its body is read.

    Raises:
        Problem: Another job is active, or the queue is full.
    """
    max_active = 1 if source == PREDECESSOR else context.engine.settings.queue_cap
    active = await run_in_threadpool(context.engine.store.jobs, ACTIVE)
    if len(active) >= max_active:
        raise await _busy(context, active[-1].id)


def form_schema(names: Mapping[str, Mapping[str, object]], required: list[str]) -> dict[str, object]:
    """The OpenAPI description of a form with the fields ``names`` and the file ``data``."""
    return {
        "schema": {
            "type": "object",
            "properties": {**names, "data": DATA},
            "required": [*required, "data"],
            "additionalProperties": False,
        }
    }
