"""The middleware in front of every path. It tests method, Host, Origin and token, and limits the body of a request.

It is pure ASGI, since it must also see streams and mounted applications.
"""

from __future__ import annotations

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from asr_lightning.server.http import auth, connections
from asr_lightning.server.http.answer import Answer
from asr_lightning.server.http.body import Body, require_one_length
from asr_lightning.server.http.problems import Problem, problem_of
from asr_lightning.server.http.settings import ServerSettings

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
OPEN_PATHS = frozenset({"/", "/healthz"})
SIGNED_PREFIX = "/tensorboard/s/"
DEFAULT_PORTS = {"http": "80", "https": "443"}


class Guard:
    """Refuses requests that must not reach ``app``, and adds security headers to every answer."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self.app, self.settings = app, settings
        self.throttle = auth.Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # no route takes websockets
                await send({"type": "websocket.close", "code": 1008})
            return
        answer = Answer(send)
        try:
            require_one_length(scope, answer)
            await self._authorize(scope)
            body = Body(scope, receive, self.settings.body, answer)
            await self.app(scope, body.receive, answer.send)
        except Problem as problem:
            await answer.problem(problem, scope, receive)
        except Exception as error:
            if answer.started:
                raise  # the connection breaks off, so that the client notices that the answer is incomplete
            await answer.problem(problem_of(error), scope, receive)

    async def _authorize(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if scope["method"] not in METHODS:
            raise Problem("method_not_allowed", f"use {', '.join(METHODS)}", {"Allow": ", ".join(METHODS)})
        require_host(headers, self.settings.hosts)
        require_origin(headers, scope["method"])
        await self._require_token(scope, headers)
        if scope["path"] not in OPEN_PATHS:
            connections.admit(scope)

    async def _require_token(self, scope: Scope, headers: Headers) -> None:
        token, path = self.settings.token, scope["path"]
        if token is None or path in OPEN_PATHS:
            return
        if auth.is_token(headers.get("authorization"), token):
            return
        if path.startswith(SIGNED_PREFIX):
            signed = path[len(SIGNED_PREFIX) :].partition("/")[0]
            if auth.is_signed(token, "tensorboard", signed):
                return
        if "authorization" in headers:
            client = scope.get("client")
            await anyio.sleep(self.throttle.failed(client[0] if client else ""))
        raise Problem("unauthorized", "send the header 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"})


def require_host(headers: Headers, hosts: frozenset[str]) -> None:
    """Refuse a request whose Host is not a name of this server, as after DNS rebinding."""
    sent = headers.getlist("host")
    name = split_port(sent[0])[0] if len(sent) == 1 else ""
    if name not in hosts:
        raise Problem("forbidden_origin", "this Host is not allowed: --allow_host NAME of serve adds one")


def require_origin(headers: Headers, method: str) -> None:
    """Refuse a request from another site's page (cross-site request forgery). curl sends no Origin, and passes."""
    for origin in headers.getlist("origin"):
        scheme, _, place = origin.lower().partition("://")
        port = DEFAULT_PORTS.get(scheme)
        if port is None or split_port(place, port) != split_port(headers["host"], port):
            raise Problem("forbidden_origin", "only this server's own pages may ask")
    if headers.get("sec-fetch-site") == "cross-site" and method not in ("GET", "HEAD"):
        raise Problem("forbidden_origin", "only this server's own pages may ask")


def split_port(place: str, default: str = "") -> tuple[str, str]:
    """The name and the port of ``name:port``; an IPv6 address keeps its brackets."""
    name, colon, port = place.lower().rpartition(":")
    if not colon or (port and not port.isdigit()):
        return place.lower(), default
    return name, port or default
