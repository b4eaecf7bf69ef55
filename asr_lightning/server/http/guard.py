"""The middleware in front of every path. It tests method, Host, Origin and token, and limits the body of a request.

It is pure ASGI, since it must also see streams and mounted applications.
"""

from __future__ import annotations

from functools import partial

import anyio
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from asr_lightning.server.http import auth, connections
from asr_lightning.server.http.answer import Answer
from asr_lightning.server.http.body import Body, require_one_length
from asr_lightning.server.http.callers import NOBODY, Caller, Callers, RefusedTokenError
from asr_lightning.server.http.problems import Problem, problem_of
from asr_lightning.server.http.settings import ServerSettings
from asr_lightning.server.http.tensorboard import PURPOSE
from asr_lightning.server.http.visits import Recorder, Visit

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
OPEN_PATHS = frozenset({"/", "/healthz"})
SIGNED_PREFIX = "/tensorboard/s/"
DEFAULT_PORTS = {"http": "80", "https": "443"}


class Guard:
    """Refuses requests that must not reach ``app``, and adds security headers to every answer."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, callers: Callers, recorder: Recorder) -> None:
        self.app, self.settings, self.callers, self.recorder = app, settings, callers, recorder
        self.throttle = auth.Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":  # no route takes websockets
                await send({"type": "websocket.close", "code": 1008})
            return
        visit = scope.setdefault("state", {})["visit"] = Visit()
        answer = Answer(send, partial(self.recorder.record, scope, visit))
        try:
            require_one_length(scope, answer)
            await self._authorize(scope, visit)
            body = Body(scope, receive, self.settings.body, answer)
            await self.app(scope, body.receive, answer.send)
        except Problem as problem:
            await answer.problem(problem, scope, receive)
        except Exception as error:
            if answer.started:
                raise  # the connection breaks off, so that the client notices that the answer is incomplete
            await answer.problem(problem_of(error), scope, receive)

    async def _authorize(self, scope: Scope, visit: Visit) -> None:
        headers = Headers(scope=scope)
        if scope["method"] not in METHODS:
            raise Problem("method_not_allowed", f"use {', '.join(METHODS)}", {"Allow": ", ".join(METHODS)})
        require_host(headers, self.settings.hosts)
        require_origin(headers, scope["method"])
        caller = await self._caller(scope, headers, visit)
        visit.caller = caller
        if scope["path"] not in OPEN_PATHS:
            caller.require_allowed(scope["method"], scope["path"])
            connections.admit(scope)

    async def _caller(self, scope: Scope, headers: Headers, visit: Visit) -> Caller:
        """Who sends a request.

        Raises:
            Problem: It shows no token that is valid, and needs one.
        """
        path = scope["path"]
        if path in OPEN_PATHS:
            return NOBODY
        try:
            caller = self.callers.by_header(headers.get("authorization"))
        except RefusedTokenError as error:
            visit.refused = error.token.name
            detail = f"{error}: ask whoever runs this server for a new one"
            raise Problem("unauthorized", detail, {"WWW-Authenticate": "Bearer"}) from error
        if path.startswith(SIGNED_PREFIX) and caller is None:
            caller = self.callers.by_signature(path[len(SIGNED_PREFIX) :].partition("/")[0], PURPOSE)
        if caller is not None:
            return caller
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
