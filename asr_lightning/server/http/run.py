"""uvicorn, with one worker: it says when it is ready, lets streams end before it stops, and waits for nobody long."""

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
    """Closes connections whose request does not arrive, and those that go on sending a body that was refused.

    While a request is being answered, ``body.Body`` watches its pace.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, but not for ever."""
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        """Take what arrived."""
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        """Go on to the next request."""
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._stop_timer()

    def _look(self) -> None:
        """Start the timer while the client owes a head, or a body that nobody reads; stop it else."""
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
    """Calls back when it listens, and tells the streams when it is about to stop."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        # No access log: paths may be signed, and nobody needs a line for each poll.
        super().__init__(uvicorn.Config(
            app, http=Protocol, ws="none", lifespan="off", access_log=False, log_level="warning", server_header=False,
            proxy_headers=False, limit_concurrency=CONNECTIONS, timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=HEAD_BYTES,
        ))  # fmt: skip
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
    """Serve ``app`` on ``listener`` until a signal; calls ``ready`` once it listens."""
    # asyncio does so for sockets that name their protocol, which this one does not: 40 ms an answer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises it again when it is done: then we are, too
        signal.signal(number, lambda *_: None)
    Server(app, ready).run(sockets=[listener])
