"""Runs both protocols in one process until a signal."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from asr_lightning.model_server.reader import Reader

GRACE_S = 5
CONNECTIONS = 256


class Server(uvicorn.Server):
    """Calls ``ready`` when it listens."""

    def __init__(self, app: Starlette, ready: Callable[[], None]) -> None:
        super().__init__(uvicorn.Config(
            app, ws="none", lifespan="off", access_log=False, log_level="warning", server_header=False,
            proxy_headers=False, timeout_graceful_shutdown=GRACE_S, limit_concurrency=CONNECTIONS,
        ))  # fmt: skip
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and call ``ready``."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def serve(
    app: Starlette, reader: Reader, http: socket.socket, wyoming: socket.socket | None, ready: Callable[[], None]
) -> None:
    """Answer requests on ``http``, and on ``wyoming`` if it is given, until a signal; calls ``ready`` once it does."""
    http.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # without it, each answer takes 40 ms longer
    # uvicorn raises a signal again after it has stopped, which must not kill this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        asyncio.run(_serve(app, reader, http, wyoming, ready))
    finally:
        reader.close()


async def _serve(
    app: Starlette, reader: Reader, http: socket.socket, wyoming: socket.socket | None, ready: Callable[[], None]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if wyoming is not None:
            from asr_lightning.model_server import wyoming_server

            server = await wyoming_server.start(wyoming, reader)
            stack.callback(server.close)
        await Server(app, ready).serve(sockets=[http])
