"""Events of a job, as pages or as a stream, and its logs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from asr_lightning.job_folder import layout
from asr_lightning.server.engine.states import PURGED, TERMINAL
from asr_lightning.server.http import schemas, views
from asr_lightning.server.http.context import Context, RequestContext
from asr_lightning.server.http.feed import PAGE, Feed
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.responses import TEXT, answers

router = APIRouter()

LOG_BYTES = 1 << 20
PLAIN = "text/plain; charset=utf-8"
SSE = "text/event-stream"
LARGEST = 2**53
# A log must not control a terminal. Each control character becomes one printable byte, so that offsets stay valid.
HARMLESS = bytes.maketrans(bytes([*range(9), 11, 12, 13, *range(14, 32), 127]), b"?" * 11 + b"\n" + b"?" * 19)
C1 = re.compile(rb"\xc2[\x80-\x9f]")

After = Annotated[int, Query(ge=0, le=LARGEST, description="only events with a higher number")]
Offset = Annotated[int, Query(ge=0, le=LARGEST, description="bytes to skip")]
EVENTS = answers("not_found", "unavailable", "invalid_parameter", s200=schemas.Events)
EVENTS[200]["content"] = {SSE: {"schema": {"type": "string"}}}


class Stream(StreamingResponse):
    """An answer that goes on for as long as its client listens. It has its seat before its first byte is sent.

    Args:
        feed: The open streams.
        pieces: What is sent.
        media_type: Its media type.

    Raises:
        Problem: Too many streams are open.
    """

    def __init__(self, feed: Feed, pieces: AsyncIterator[bytes], media_type: str) -> None:
        super().__init__(pieces, media_type=media_type)
        self._feed = feed
        feed.take_seat()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and give the seat back."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._feed.leave_seat()


@router.get("/v1/jobs/{job_id}/events", responses=EVENTS)
async def events(
    request: Request,
    context: RequestContext,
    job_id: str,
    after: After = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = PAGE,
) -> Response:
    """Events later than ``after``: a page of JSON, or with ``Accept: text/event-stream`` a stream."""
    await context.job(job_id)
    if SSE in request.headers.get("accept", ""):
        after = _last_seen(request, after)
        return Stream(context.feed, _stream(context, job_id, after), SSE)
    page = await run_in_threadpool(context.engine.events, job_id, after, limit)
    last = str(page[-1].seq) if page else None
    return JSONResponse({"data": [views.event_object(event) for event in page], "next": last})


def _last_seen(request: Request, after: int) -> int:
    """The number of the last event that the client has seen: a reconnecting browser sends it in a header."""
    number = request.headers.get("last-event-id", "")
    if not number:
        return after
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        raise Problem("invalid_parameter", "Last-Event-ID must be the number of an event", param="Last-Event-ID")
    return int(number)


async def _stream(context: Context, job_id: str, after: int) -> AsyncIterator[bytes]:
    """Every event once, in order, and a comment while nothing happens. The stream ends when the job has ended."""
    with context.feed.watching(job_id, after) as watch:
        yield b"retry: 2000\n\n"
        sent, ended = time.monotonic(), await _has_ended(context, job_id)
        while context.goes_on():
            patience_s = 0 if ended else min(1.0, context.settings.ping_s)
            new = await context.feed.next(job_id, watch, after, patience_s)
            for event in new:
                after = event.seq
                text = json.dumps(views.event_object(event), ensure_ascii=True)
                yield f"id: {event.seq}\nevent: {event.kind}\ndata: {text}\n\n".encode()
            if ended and not new:
                yield b"event: end\ndata: {}\n\n"
                return
            if new:  # an ended job is looked at once more, so that no event is missed
                sent, ended = time.monotonic(), await _has_ended(context, job_id)
            elif time.monotonic() - sent >= context.settings.ping_s:
                sent = time.monotonic()
                yield b": ping\n\n"


async def _has_ended(context: Context, job_id: str) -> bool:
    return (await context.job(job_id)).state in TERMINAL | {PURGED}


@router.get(
    "/v1/jobs/{job_id}/logs",
    response_class=Response,
    responses=answers("not_found", "purged", "invalid_parameter", "unavailable", s200=TEXT),
)
async def logs(
    context: RequestContext, job_id: str, offset: Offset = 0, name: Literal["trainer", "intake"] = "trainer",
    follow: Annotated[int, Query(ge=0, le=1, description="1 continues until the job ends")] = 0,
) -> Response:  # fmt: skip
    """At most 1 MiB of the log from byte ``offset`` on. ``X-Next-Offset`` is the offset to continue with."""
    await context.job_with_files(job_id)
    path = layout.log_of(context.engine.home.job(job_id), name)
    if follow:
        return Stream(context.feed, _follow(context, job_id, path, offset), PLAIN)
    text, offset = await run_in_threadpool(read_log, path, offset)
    return Response(text, headers={"X-Next-Offset": str(offset)}, media_type=PLAIN)


async def _follow(context: Context, job_id: str, path: Path, offset: int) -> AsyncIterator[bytes]:
    while context.goes_on():
        ended = await _has_ended(context, job_id)
        text, offset = await run_in_threadpool(read_log, path, offset, 64 << 10)
        if text:
            yield text
        elif ended:
            return
        else:
            await asyncio.sleep(context.settings.poll_s)


def read_log(path: Path, offset: int, max_bytes: int = LOG_BYTES) -> tuple[bytes, int]:
    """Read a part of a log, without the characters that control a terminal.

    A log that is shorter than ``offset`` was begun anew (``processes.cap_log``), and is read from its start.

    Args:
        path: The log.
        offset: Bytes to skip.
        max_bytes: Largest number of bytes to read.

    Returns:
        The text, and the offset of the next part.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # it does not exist yet, or is a link that an attacker made
        return b"", offset
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return b"", offset
    with os.fdopen(descriptor, "rb") as file:
        if offset > os.fstat(descriptor).st_size:
            offset = 0
        file.seek(offset)
        data = file.read(max_bytes)
    return C1.sub(b"??", data.translate(HARMLESS)), offset + len(data)
