"""What a job tells while it runs: events as pages or as a stream, and its log."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from asr_lightning.job_folder import layout
from asr_lightning.server.engine.states import PURGED, TERMINAL
from asr_lightning.server.http import schemas, views
from asr_lightning.server.http.context import Context, Here
from asr_lightning.server.http.feed import PAGE
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.schemas import answers

router = APIRouter()

LOG_BYTES = 1 << 20
PLAIN = "text/plain; charset=utf-8"
SSE = "text/event-stream"
LARGEST = 2**53
# Each control character becomes one printable byte, so that offsets stay: a log must not steer a terminal.
HARMLESS = bytes.maketrans(bytes([*range(9), 11, 12, 13, *range(14, 32), 127]), b"?" * 11 + b"\n" + b"?" * 19)
C1 = re.compile(rb"\xc2[\x80-\x9f]")

After = Annotated[int, Query(ge=0, le=LARGEST, description="only events with a higher number")]
Offset = Annotated[int, Query(ge=0, le=LARGEST, description="bytes to skip")]
EVENTS = answers("not_found", "unavailable", "invalid_parameter", s200=schemas.Events)
EVENTS[200]["content"] = {SSE: {"schema": {"type": "string"}}}


@router.get("/v1/jobs/{job_id}/events", responses=EVENTS)
async def events(
    request: Request, here: Here, job_id: str, after: After = 0, limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE
) -> Response:
    """Events later than ``after``: a page of JSON, or with ``Accept: text/event-stream`` a stream."""
    await here.job(job_id)
    if SSE in request.headers.get("accept", ""):
        here.feed.check()
        return StreamingResponse(_stream(here, job_id, _last_seen(request, after)), media_type=SSE)
    page = await run_in_threadpool(here.engine.events, job_id, after, limit)
    last = str(page[-1].seq) if page else None
    return JSONResponse({"data": [views.event_object(event) for event in page], "next": last})


def _last_seen(request: Request, after: int) -> int:
    given = request.headers.get("last-event-id", "")
    if not given:
        return after
    if not (given.isascii() and given.isdigit() and len(given) < 16):
        raise Problem("invalid_parameter", "Last-Event-ID must be the number of an event", param="Last-Event-ID")
    return int(given)


async def _stream(here: Context, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Every event once, in order; a comment while nothing happens; ends when the job has."""
    with here.feed.seat(), here.feed.watching(job_id, after) as watch:
        yield b"retry: 2000\n\n"
        told, ended = time.monotonic(), await _has_ended(here, job_id)
        while not here.stopping:
            found = await here.feed.next(job_id, watch, after, 0 if ended else min(1.0, here.settings.ping_s))
            for event in found:
                after = event.seq
                text = json.dumps(views.event_object(event), ensure_ascii=True)
                yield f"id: {event.seq}\nevent: {event.kind}\ndata: {text}\n\n".encode()
            if ended and not found:
                yield b"event: end\ndata: {}\n\n"
                return
            if found:  # each change of state has an event; once it has ended, one more look, so that none is missed
                told, ended = time.monotonic(), await _has_ended(here, job_id)
            elif time.monotonic() - told >= here.settings.ping_s:
                told = time.monotonic()
                yield b": ping\n\n"


async def _has_ended(here: Context, job_id: str) -> bool:
    return (await here.job(job_id)).state in TERMINAL | {PURGED}


@router.get(
    "/v1/jobs/{job_id}/logs",
    response_class=Response,
    responses=answers("not_found", "purged", "invalid_parameter", "unavailable", s200=schemas.TEXT),
)
async def logs(
    here: Here, job_id: str, offset: Offset = 0, name: Literal["trainer", "intake"] = "trainer",
    follow: Annotated[int, Query(ge=0, le=1, description="1 goes on until the job ends")] = 0,
) -> Response:  # fmt: skip
    """The log from byte ``offset`` on, at most 1 MiB; ``X-Next-Offset`` says where to go on."""
    await here.kept(job_id)
    path = layout.log_of(here.engine.home.job(job_id), name)
    if follow:
        here.feed.check()
        return StreamingResponse(_follow(here, job_id, path, offset), media_type=PLAIN)
    found, offset = await run_in_threadpool(read_log, path, offset)
    return Response(found, headers={"X-Next-Offset": str(offset)}, media_type=PLAIN)


async def _follow(here: Context, job_id: str, path: Path, offset: int) -> AsyncIterator[bytes]:
    with here.feed.seat():
        while not here.stopping:
            ended = await _has_ended(here, job_id)
            found, offset = await run_in_threadpool(read_log, path, offset, 64 << 10)
            if found:
                yield found
            elif ended:
                return
            else:
                await asyncio.sleep(here.settings.poll_s)


def read_log(path: Path, offset: int, most: int = LOG_BYTES) -> tuple[bytes, int]:
    """At most ``most`` bytes of ``path`` from ``offset`` on, without characters that steer a terminal; the next offset.

    A log that grew too long was begun anew (``jobs.processes.cap_log``): it is read from its start.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # not there yet, or a link that somebody planted
        return b"", offset
    with os.fdopen(descriptor, "rb") as file:
        if offset > os.fstat(descriptor).st_size:
            offset = 0
        file.seek(offset)
        found = file.read(most)
    return C1.sub(b"??", found.translate(HARMLESS)), offset + len(found)
