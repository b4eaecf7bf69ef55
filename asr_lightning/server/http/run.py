"""Run uvicorn with one worker, which reports that it is ready, and ends open streams before it stops."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 1024
GRACE_S = 5
HEAD_BYTES = 64 << 10
PATIENCE_S = 20.0


class Protocol(H11Protocol):
    """Closes connections whose request does not arrive, and those that keep sending a refused body.

    While a request is being answered, ``body.Body`` limits its time instead.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait a limited time for a request."""
        super().connection_made(transport)
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        """Process received bytes."""
        super().data_received(data)
        self._update_timer()

    def on_response_complete(self) -> None:
        """Continue with the next request."""
        super().on_response_complete()
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop_timer()

    def _update_timer(self) -> None:
        """Run the timer while the client must send a head, or is sending a body that nobody reads."""
        refused = self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY
        if not (refused or self.conn.their_state is h11.IDLE):
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(PATIENCE_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """Calls ``ready`` when it listens, and makes open streams end before it stops."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        # There is no access log: paths may hold signatures, and each poll would add a line.
        super().__init__(uvicorn.Config(
            app, http=Protocol, ws="none", lifespan="off", access_log=False, log_level="warning", server_header=False,
            proxy_headers=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=HEAD_BYTES,
        ))  # fmt: skip
        self._app, self._ready = app, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and call ``ready``."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams, then the server."""
        self._app.state.context.stopping.set()
        await super().shutdown(sockets)


def serve_app(app: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve ``app`` on ``listener`` until a signal; calls ``ready`` once it listens."""
    # asyncio sets this only for sockets that name their protocol. Without it, each answer takes 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # uvicorn raises a signal again after it has stopped, which must not kill this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    Server(app, ready).run(sockets=[listener])
