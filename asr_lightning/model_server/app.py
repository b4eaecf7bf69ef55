"""OpenAI's transcription protocol: ``POST /v1/audio/transcriptions``, ``GET /v1/models``, and ``GET /healthz``.

Source of the protocol: https://platform.openai.com/docs/api-reference/audio/createTranscription.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from asr_lightning.model_server import formats
from asr_lightning.model_server.guard import Guard
from asr_lightning.model_server.problems import Refusal
from asr_lightning.model_server.reader import BusyError, Order, Reader, UnreadableError
from asr_lightning.model_server.requests import TranscriptionRequest, parse, require_model
from asr_lightning.model_server.settings import Settings
from asr_lightning.recognizer import WITHOUT_SPACES, Transcription
from asr_lightning.runtime import segments
from asr_lightning.runtime.segments import Segment

logger = logging.getLogger(__name__)

MAX_FIELDS, MAX_FIELD_BYTES = 64, 64 << 10
GONE = 499
"""Status that nobody reads, of a request whose client has gone."""


def create_app(reader: Reader, settings: Settings) -> Starlette:
    """Make the application that answers for the model of ``reader``."""
    middleware = [Middleware(Guard, settings=settings)]
    if settings.origins:
        middleware.insert(
            0, Middleware(CORSMiddleware, allow_origins=settings.origins, allow_methods=["*"], allow_headers=["*"])
        )
    routes = [
        Route("/v1/audio/transcriptions", transcriptions, methods=["POST"]),
        Route("/v1/models", models),
        Route("/v1/models/{name:path}", model),
        Route("/healthz", healthz),
    ]
    handlers: Any = {HTTPException: _http_error, Exception: _fault}  # the guard answers refusals
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)
    app.state.reader = reader
    return app


async def healthz(request: Request) -> Response:
    """Say that the server works."""
    return JSONResponse({"status": "ok"})


async def models(request: Request) -> Response:
    """List the one model."""
    return JSONResponse({"object": "list", "data": [_model(request.app.state.reader)]})


async def model(request: Request) -> Response:
    """Describe the model."""
    reader = request.app.state.reader
    require_model(request.path_params["name"], reader.name)
    return JSONResponse(_model(reader))


def _model(reader: Reader) -> dict[str, object]:
    return {"id": reader.name, "object": "model", "created": reader.created, "owned_by": "asr_lightning"}


async def transcriptions(request: Request) -> Response:
    """Transcribe a recording."""
    reader: Reader = request.app.state.reader
    async with contextlib.AsyncExitStack() as stack:
        form = await stack.enter_async_context(
            request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
        )
        asked = parse(form, reader.name, reader.language)
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="asr_lightning-"))
        path = Path(folder) / "recording"
        await asyncio.to_thread(_store, asked.file, path)
        name = Path(asked.file.filename or "").name[:80] or "the recording"
        if asked.stream:
            events = _events(reader, path, name)
            first = await anext(events)  # an error before the first piece is an answer with its status
            rest = stack.pop_all()  # the recording is deleted when the last piece was sent
            return StreamingResponse(_with(rest, first, events), media_type="text/event-stream")
        read = await _unless_gone(request, _answered(reader.read(Order(path, name, asked.words))))
    return _answer(asked, read)


def _answer(asked: TranscriptionRequest, read: Transcription) -> Response:
    kind = asked.response_format
    if kind in formats.PLAIN:
        return PlainTextResponse(formats.as_text(read, kind))
    if kind == "json":
        return JSONResponse(formats.as_json(read))
    if asked.words and read.text and not any(segment.words for segment in read.segments):
        raise Refusal(
            400, "unsupported_value", "this model does not tell the times of words: ask for segment",
            "timestamp_granularities",
        )  # fmt: skip
    return JSONResponse(formats.as_verbose_json(read, asked.granularities))


async def _answered(reading: Coroutine[Any, Any, Transcription]) -> Transcription:
    """The result of ``reading``.

    Raises:
        Refusal: It has none.
    """
    try:
        return await reading
    except BusyError as busy:
        raise Refusal(503, "server_busy", str(busy), None, {"Retry-After": str(busy.retry_s)}) from busy
    except UnreadableError as error:
        raise Refusal(400, error.code, str(error), "file") from error


async def _unless_gone(request: Request, reading: Coroutine[Any, Any, Transcription]) -> Transcription:
    """The result of ``reading``, which is cancelled when the client closes its connection."""
    task = asyncio.ensure_future(reading)
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refusal(GONE, "gone", "the client has gone")
        return await task
    finally:
        for each in (task, gone):
            each.cancel()


async def _events(reader: Reader, path: Path, name: str) -> AsyncIterator[str]:
    """The events of a streamed answer: a piece for each phrase, and the whole text."""
    loop, pieces = asyncio.get_running_loop(), asyncio.Queue[Segment | None]()

    def found(segment: Segment) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, segment)

    task = asyncio.ensure_future(_answered(reader.read(Order(path, name, found=found))))
    task.add_done_callback(lambda _: pieces.put_nowait(None))
    read: list[Segment] = []
    sent = 0
    try:
        while (segment := await pieces.get()) is not None:
            read.append(segment)
            text = segments.text_of(read, spaced=reader.language not in WITHOUT_SPACES)
            yield _event({"type": "transcript.text.delta", "delta": text[sent:]})
            sent = len(text)
        yield _event({"type": "transcript.text.done", "text": (await task).text})
    finally:
        task.cancel()


def _event(content: dict[str, str]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n"


async def _with(stack: contextlib.AsyncExitStack, first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    async with stack:
        yield first
        try:
            async for event in rest:
                yield event
        except Refusal as refusal:  # the status is sent already
            yield _event(refusal.body)  # type: ignore[arg-type]


def _store(file: UploadFile, path: Path) -> None:
    with path.open("wb") as target:
        shutil.copyfileobj(file.file, target)


async def _http_error(request: Request, error: HTTPException) -> Response:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return Refusal(error.status_code, code, str(error.detail), None, error.headers).response()


async def _fault(request: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    return Refusal(500, "internal_error", "the server has failed: its log says why").response()
