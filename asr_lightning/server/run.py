"""uvicorn, with one worker: it says when it is ready, and lets streams end before it stops."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

CONNECTIONS = 1024
GRACE_S = 5
HEAD_BYTES = 64 << 10


class Server(uvicorn.Server):
    """Calls back when it listens, and tells the streams when it is about to stop."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the streams end, then the rest."""
        self._app.state.context.stopping = True
        await super().shutdown(sockets)


def serve_app(app: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve ``app`` on ``listener`` until a signal.

    The access log is off: paths may be signed, and nobody needs a line for each poll.
    """
    config = uvicorn.Config(
        app, access_log=False, log_level="warning", ws="none", lifespan="off", server_header=False, proxy_headers=False,
        limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=GRACE_S, h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises it again when it is done: then we are, too
        signal.signal(number, lambda *_: None)
    Server(config, app, ready).run(sockets=[listener])
