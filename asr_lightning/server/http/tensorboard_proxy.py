"""``/tensorboard/…``: TensorBoard's pages behind the server's auth, or under a signed path that expires."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
from fastapi import APIRouter, Request
from starlette.responses import Response, StreamingResponse

from asr_lightning.server.http.context import Here
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.tensorboard import SECRET_HEADER

router = APIRouter(include_in_schema=False)

ASKED = ("accept", "content-type", "if-none-match", "range")
ANSWERED = ("content-type", "content-encoding", "content-length", "etag")
# TensorBoard's own, without the other sites that it names, and framed by its own pages only.
CSP = (
    "default-src 'self'; font-src 'self' data:; frame-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "style-src 'self' data: 'unsafe-inline'; connect-src 'self'; script-src 'self' 'unsafe-eval'; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'self'"
)


@router.api_route("/tensorboard/s/{signature}/{path:path}", methods=["GET", "POST"])
async def signed(request: Request, here: Here, signature: str, path: str) -> Response:
    """TensorBoard under a signed path, which the guard has checked."""
    return await _pass_on(request, here, path)


@router.api_route("/tensorboard/{path:path}", methods=["GET", "POST"])
async def plain(request: Request, here: Here, path: str) -> Response:
    """TensorBoard for those who send the token, or need none."""
    return await _pass_on(request, here, path)


async def _pass_on(request: Request, here: Here, path: str) -> Response:
    """TensorBoard's answer. It gets no header that could carry a secret of ours."""
    if here.tensorboard is None:
        raise Problem("not_found", "TensorBoard is off: start the server without --no_tensorboard")
    port = await here.tensorboard.ready()
    headers = {name: request.headers[name] for name in ASKED if name in request.headers}
    headers |= {SECRET_HEADER: here.tensorboard.secret, "accept-encoding": request.headers.get("accept-encoding", "")}
    url = httpx.URL(scheme="http", host="127.0.0.1", port=port, path=f"/{path}", query=request.url.query.encode())
    client = here.tensorboard.client
    try:
        asked = client.build_request(request.method, url, headers=headers, content=await request.body())
        answer = await client.send(asked, stream=True)
    except httpx.HTTPError as error:
        raise Problem("unavailable", "TensorBoard does not answer: try again in a few seconds") from error
    kept = {name: answer.headers[name] for name in ANSWERED if name in answer.headers}
    own = {"Content-Security-Policy": CSP, "X-Frame-Options": "SAMEORIGIN"}
    return StreamingResponse(_pieces(answer), answer.status_code, {**kept, **own})


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
