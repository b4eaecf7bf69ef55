"""The middleware in front of every path. It tests Host, Origin and token, and limits the body of a request."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import URL, Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from asr_lightning.model_server.problems import Refusal
from asr_lightning.model_server.settings import Settings
from asr_lightning.server.http import auth

OPEN_PATHS = frozenset({"/healthz"})
DRAINED_BYTES, DRAINED_S = 64 << 20, 5.0
"""How much of a refused body is read and thrown away, so that the client gets to read the answer."""


class Guard:
    """Refuses requests that must not reach ``app``."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings, self._throttle = app, settings, auth.Throttle()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = Body(receive, self.settings)
        try:
            await self._admit(scope)
            body.announce(Headers(scope=scope).get("content-length", "0"))
            await self.app(scope, body.receive, send)
        except Refusal as refusal:
            await body.drain()
            await refusal.response()(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        headers, url = Headers(scope=scope), URL(scope=scope)
        if self.settings.hosts is not None and (url.hostname or "") not in self.settings.hosts:
            raise Refusal(403, "forbidden_host", "this Host is not allowed: --allow_host NAME of serve-model adds one")
        origin = headers.get("origin")
        if origin is not None and not self._is_allowed(origin, url):
            raise Refusal(
                403,
                "forbidden_origin",
                "pages of this origin may not ask: --allow_origin ORIGIN of serve-model adds it",
            )
        if self.settings.token is None or scope["path"] in OPEN_PATHS:
            return
        sent = auth.sent_token(headers.get("authorization"))
        if sent is not None and auth.is_same(sent, self.settings.token):
            return
        if sent is not None:
            client = scope.get("client")
            await asyncio.sleep(self._throttle.failed(client[0] if client else ""))
        raise Refusal(
            401, "invalid_api_key", "give the token of this server as the API key", None, {"WWW-Authenticate": "Bearer"}
        )

    def _is_allowed(self, origin: str, url: URL) -> bool:
        return "*" in self.settings.origins or origin in (*self.settings.origins, f"{url.scheme}://{url.netloc}")


class Body:
    """Receives the body of a request, within the limits of size and time."""

    def __init__(self, receive: Receive, settings: Settings) -> None:
        self._receive, self._max_bytes = receive, settings.max_bytes
        self._read, self._done, self._until = 0, False, time.monotonic() + settings.body_s

    def announce(self, length: str) -> None:
        """Refuse a body whose announced length is too large.

        Raises:
            Refusal: It is.
        """
        if length.isascii() and length.isdigit() and int(length[:20]) > self._max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next message of the client.

        Raises:
            Refusal: The body is too large, or takes too long.
        """
        if self._done:  # this waits until the client closes the connection
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._until - time.monotonic())):
                message = await self._receive()
        except TimeoutError as error:
            raise Refusal(408, "timeout", "the recording took too long to arrive") from error
        self._count(message)
        if self._read > self._max_bytes:
            raise self._too_large()
        return message

    async def drain(self) -> None:
        """Read what the client still sends, within limits: a connection that closes at once would lose the answer."""
        most = self._read + DRAINED_BYTES
        try:
            async with asyncio.timeout(DRAINED_S):
                while not self._done and self._read <= most:
                    self._count(await self._receive())
        except TimeoutError:
            pass

    def _count(self, message: Message) -> None:
        self._read += len(message.get("body", b""))
        self._done = message["type"] != "http.request" or not message.get("more_body", False)

    def _too_large(self) -> Refusal:
        return Refusal(413, "file_too_large", f"at most {self._max_bytes / (1 << 20):g} MB are accepted", "file")
