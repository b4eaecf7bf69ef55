"""``/tensorboard/…``: TensorBoard's pages for clients with the token, or under a signed path that expires."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response, StreamingResponse

from asr_lightning.server.engine import states
from asr_lightning.server.http.context import RequestContext
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.tensorboard import SECRET_HEADER

router = APIRouter(include_in_schema=False)

REQUEST_HEADERS = ("accept", "content-type", "if-none-match", "range")
ANSWER_HEADERS = ("content-type", "content-encoding", "content-length", "etag")
# TensorBoard's own policy, but without the other sites in it; only its own pages may frame it.
CSP = (
    "default-src 'self'; font-src 'self' data:; frame-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "style-src 'self' data: 'unsafe-inline'; connect-src 'self'; script-src 'self' 'unsafe-eval'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)


@router.api_route("/tensorboard/s/{signature}/{path:path}", methods=["GET", "POST"])
async def signed(request: Request, context: RequestContext, signature: str, path: str) -> Response:
    """TensorBoard under a signed path, whose signature the guard has verified."""
    return await _pass_on(request, context, path)


@router.api_route("/tensorboard/{path:path}", methods=["GET", "POST"])
async def plain(request: Request, context: RequestContext, path: str) -> Response:
    """TensorBoard for clients that send the token, or need none."""
    return await _pass_on(request, context, path)


async def _pass_on(request: Request, context: RequestContext, path: str) -> Response:
    """The answer of TensorBoard, which gets no header that may hold a secret of the server."""
    if context.tensorboard is None:
        raise Problem("not_found", "TensorBoard is off: start the server without --no_tensorboard")
    board = context.tensorboard
    if (owner := context.caller.only) is not None:
        jobs = await run_in_threadpool(context.engine.store.jobs, states.STATES - {states.PURGED}, owner=owner)
        board = await board.of(owner, [job.id for job in jobs])
    port = await board.ready()
    headers = {name: request.headers[name] for name in REQUEST_HEADERS if name in request.headers}
    headers |= {
        SECRET_HEADER: board.secret,
        "accept-encoding": request.headers.get("accept-encoding", ""),
    }
    url = httpx.URL(scheme="http", host="127.0.0.1", port=port, path=f"/{path}", query=request.url.query.encode())
    client = board.client
    try:
        forwarded = client.build_request(request.method, url, headers=headers, content=await request.body())
        answer = await client.send(forwarded, stream=True)
    except httpx.HTTPError as error:
        raise Problem("unavailable", "TensorBoard does not answer: try again in a few seconds") from error
    headers = {name: answer.headers[name] for name in ANSWER_HEADERS if name in answer.headers}
    headers |= {"Content-Security-Policy": CSP, "X-Frame-Options": "SAMEORIGIN"}
    return StreamingResponse(_pieces(answer), answer.status_code, headers)


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
