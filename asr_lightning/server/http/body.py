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
