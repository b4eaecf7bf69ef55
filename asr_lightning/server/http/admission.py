"""How a job comes in: by a form, or by JSON that names an upload. Seed and v1 differ in names only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from asr_lightning.job_folder.spec import MAX_EPOCHS, MAX_SEED, JobSpec
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.states import ACTIVE
from asr_lightning.server.http import fields, forms
from asr_lightning.server.http.context import Context
from asr_lightning.server.http.problems import Problem, busy, invalid
from asr_lightning.server.http.schemas import BINARY
from asr_lightning.server.http.uploads import Upload

Source = Literal["seed", "v1"]

LANGUAGE = {"type": "string", "description": "a code such as en or de, for multilingual models"}
EPOCHS = {"type": "integer", "minimum": 1, "maximum": MAX_EPOCHS, "description": "Without it, the recipe of the model."}
SEED_NUMBER = {"type": "integer", "minimum": 0, "maximum": MAX_SEED, "default": 0}
DATA = {**BINARY, "description": "a .tar.gz of audio files, and of text files with the same base names"}
KEY_HEADER = {
    "name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string", "maxLength": 255},
    "description": "a retry with the same key and the same request finds the job instead of making another",
}  # fmt: skip


async def by_form(request: Request, here: Context, source: Source) -> tuple[Job, bool]:
    """Take a job that comes as a form with its data.

    Raises:
        Problem: The request is refused.
    """
    key = fields.idempotency_key(request)
    if key is None:  # with a key it may be a retry of the very job that is active
        await check_room(here, source)
    forms.boundary(request)
    path = await run_in_threadpool(here.engine.new_upload)
    names = fields.SEED if source == "seed" else fields.V1
    async with forms.received(request, names, path, here.settings.min_free_bytes) as form:
        spec = fields.spec(form.fields, here.models, "base_model_name" if source == "seed" else "model")
        return await run_in_threadpool(here.engine.submit, spec, path, key=key, source=source)


async def by_upload(request: Request, here: Context) -> tuple[Job, bool]:
    """Take a job whose data were uploaded before.

    Raises:
        Problem: The request is refused.
    """
    key = fields.idempotency_key(request)
    wanted = await fields.json_object(request, fields.V1 | {"upload"})
    name = wanted.pop("upload", None)
    if not isinstance(name, str):
        raise invalid("upload", "name an upload: POST /v1/uploads begins one")
    spec = fields.spec(wanted, here.models)
    try:
        upload = here.uploads.get(name)
    except Problem:
        known = await run_in_threadpool(here.engine.store.keyed, key) if key is not None else None
        if known is None or known.spec != spec:
            raise
        return await here.job(known.id), False  # the upload went into that job
    return await _take_upload(here, upload, spec, key)


async def _take_upload(here: Context, upload: Upload, spec: JobSpec, key: str | None) -> tuple[Job, bool]:
    if upload.lock.locked():
        raise Problem("busy", "bytes are arriving", {"Retry-After": "1"}, received=upload.received)
    async with upload.lock:
        if not upload.received or (upload.size is not None and upload.received != upload.size):
            wanted = "its first byte" if upload.size is None else f"all of its {upload.size} bytes"
            raise invalid("upload", f"the upload has {upload.received} bytes: send {wanted} first")
        found = await run_in_threadpool(here.engine.submit, spec, upload.path, key=key, source="v1")
        await here.uploads.discard(upload)  # a refusal leaves it
    return found


async def check_room(here: Context, source: Source) -> None:
    """Refuse early what the commit would refuse, before the body is read.

    Raises:
        Problem: Another job is active (seed), or the queue is full.
    """
    most = 1 if source == "seed" else here.engine.settings.queue_cap
    active = await run_in_threadpool(here.engine.store.jobs, ACTIVE)
    if len(active) >= most:
        raise busy(active[-1].id)


def form_schema(names: Mapping[str, Mapping[str, object]], required: list[str]) -> dict[str, object]:
    """The OpenAPI description of a form with ``data``."""
    return {
        "schema": {
            "type": "object",
            "properties": {**names, "data": DATA},
            "required": [*required, "data"],
            "additionalProperties": False,
        }
    }
