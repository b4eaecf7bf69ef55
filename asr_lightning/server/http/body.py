"""The body of a request, with limits of size and of time."""

from __future__ import annotations

import re
import time

import anyio
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from asr_lightning.server.http.answer import Answer
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.settings import BodyLimits

HOLDS_DATA = re.compile(r"/training|/v1/jobs|/v1/datasets/validate|/v1/uploads/[^/]+")


def require_one_length(scope: Scope, answer: Answer) -> None:
    """Refuse a request that says in two ways where its body ends, and close its connection.

    A proxy in front of this server may believe the other one, and then take a part of the body for a request of its own
    (https://www.rfc-editor.org/rfc/rfc9112#section-6.1).

    Raises:
        Problem: The request has both a Content-Length and a Transfer-Encoding, or has the latter in HTTP/1.0.
    """
    headers = Headers(scope=scope)
    if "transfer-encoding" in headers and ("content-length" in headers or scope.get("http_version") == "1.0"):
        answer.close = True
        raise Problem("bad_request", "send Content-Length or Transfer-Encoding, not both, and the latter with HTTP/1.1")


class Body:
    """Receives the body of a request. ``receive`` raises a problem if the body is too large or too slow.

    Raises:
        Problem: The announced length is too large.
    """

    def __init__(self, scope: Scope, receive: Receive, limits: BodyLimits, answer: Answer) -> None:
        self._receive, self._limits, self._answer = receive, limits, answer
        self._max_bytes = limits.upload if HOLDS_DATA.fullmatch(scope["path"]) else limits.other
        self._read, self._started, self._done = 0, time.monotonic(), False
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isascii() and announced.isdigit() and int(announced[:20]) > self._max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        """The next message of the client."""
        if self._done:  # this waits until the client closes the connection, which may take any time
            return await self._receive()
        with anyio.move_on_after(self._seconds_left()) as scope:
            message = await self._receive()
        if scope.cancelled_caught:
            self._answer.close = True
            raise Problem("timeout", f"the body came at less than {self._limits.rate} bytes a second, or took too long")
        self._read += len(message.get("body", b""))
        self._done = not message.get("more_body", False)
        if self._read > self._max_bytes:
            raise self._too_large()
        return message

    def _seconds_left(self) -> float:
        """Seconds within which the next bytes must arrive."""
        limits = self._limits
        allowed = min(limits.patience_s + self._read / limits.rate, limits.total_s)
        return max(0.0, self._started + allowed - time.monotonic())

    def _too_large(self) -> Problem:
        self._answer.close = True
        return Problem("too_large", f"at most {self._max_bytes} bytes are accepted")
