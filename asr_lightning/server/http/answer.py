"""Send answers with our headers, and a problem only if no answer has begun."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from asr_lightning.server.http.problems import Problem

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Answer:
    """The answer to one request.

    Args:
        send: Sends a message to the client.
        before: Called with the status before the head of the answer is sent.

    Attributes:
        started: Whether the head of the answer was sent.
        close: Whether the connection must be closed afterwards, because the request's body was not read to its end.
    """

    def __init__(self, send: Send, before: Callable[[int], Awaitable[None]]) -> None:
        self._send, self._before, self.started, self.close = send, before, False, False

    async def send(self, message: Message) -> None:
        """Send ``message``; the head gets our headers."""
        if message["type"] == "http.response.start":
            self.started = True
            message.setdefault("headers", [])
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
            if self.close:
                headers["Connection"] = "close"
            await self._before(message["status"])
        await self._send(message)

    async def problem(self, problem: Problem, scope: Scope, receive: Receive) -> None:
        """Answer with ``problem`` unless an answer has begun."""
        if not self.started:
            await problem.response()(scope, receive, self.send)
