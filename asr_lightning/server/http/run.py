"""Run uvicorn with one worker, which reports that it is ready, and ends open streams before it stops."""

from __future__ import annotations

import asyncio
import functools
import resource
import signal
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from asr_lightning.server.http.connections import BURST, KEY, Connections, peer_of
from asr_lightning.server.http.settings import ConnectionLimits

GRACE_S = 5
HEAD_BYTES = 64 << 10
OTHER_FILES = 256
"""Open files that a server needs besides its connections: the store, downloads, uploads and the logs of workers."""


LINGER_S = 5.0
"""Seconds for which the rest of a refused body is read, so that the client gets to read the answer."""


class LingeringTransport:
    """A transport that does not close a connection at once while the client is sending.

    The system would answer the client's next bytes with a reset, which also destroys the answer that is on its way
    (https://www.rfc-editor.org/rfc/rfc9112#section-9.6). So this ends only its own side, and ignores the rest.

    Attributes:
        lingering: Whether only the client's side is still open.
    """

    def __init__(self, transport: asyncio.Transport, is_sending: Callable[[], bool]) -> None:
        self._transport, self._is_sending, self.lingering = transport, is_sending, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether no more can be sent."""
        return self.lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close the connection, at once or when the client has closed its side."""
        if self.is_closing():
            return
        if not self._is_sending():
            self._transport.close()
            return
        self.lingering = True
        self._transport.write_eof()
        self._transport.resume_reading()
        asyncio.get_running_loop().call_later(LINGER_S, self._transport.close)


class Protocol(H11Protocol):
    """Closes connections whose request does not arrive, and those that keep sending a refused body.

    While a request is being answered, ``body.Body`` limits its time instead.

    Args:
        open_connections: The open connections of the server.
        options: Arguments that uvicorn gives.

    Attributes:
        peer: The client's address, as ``Connections`` counts it.
    """

    def __init__(self, open_connections: Connections, **options: Any) -> None:
        super().__init__(**options)
        self.peer = ""
        self.app_state = {**self.app_state, KEY: self._admit}  # uvicorn copies it into the scope of each request
        self._open = open_connections
        self._silent = True
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait a limited time for a request."""
        self._socket = transport
        self._ending = LingeringTransport(transport, self._is_sending)
        super().connection_made(self._ending)  # type: ignore[arg-type]
        self.peer = peer_of(self.client[0]) if self.client else ""
        self._open.add(self)
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        """Process received bytes."""
        if self._ending.lingering:
            return
        if self._silent:
            self._silent = False
            self._stop_timer()
        super().data_received(data)
        self._update_timer()

    def is_idle(self) -> bool:
        """Whether no request is being answered."""
        return self.cycle is None or bool(self.cycle.response_complete)

    def close(self) -> None:
        """Close the connection at once; what was answered is still sent."""
        self._socket.close()

    def _is_sending(self) -> bool:
        """Whether more bytes of a request may follow, also of one that could not be understood."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR)

    def _admit(self) -> None:
        self._open.admit(self)

    def on_response_complete(self) -> None:
        """Continue with the next request."""
        super().on_response_complete()
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        self._open.forget(self)
        self._stop_timer()

    def _update_timer(self) -> None:
        """Run the timer while the client must send a head, or is sending a body that nobody reads."""
        refused = self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY
        if not (refused or self.conn.their_state is h11.IDLE):
            self._stop_timer()
        elif self._timer is None:
            limits = self._open.limits
            patience_s = limits.first_byte_s if self._silent else limits.head_s
            self._timer = self.loop.call_later(patience_s, self.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """Calls ``ready`` when it listens, and makes open streams end before it stops."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        limits = app.state.context.settings.connections
        # uvicorn's own limit refuses every request above it, GET /healthz and those with a token too.
        protocol = functools.partial(Protocol, Connections(limits))
        # There is no access log: paths may hold signatures, and each poll would add a line.
        super().__init__(uvicorn.Config(
            app, http=protocol, ws="none", lifespan="off", access_log=False, log_level="warning",  # type: ignore[arg-type]
            server_header=False, proxy_headers=False, timeout_graceful_shutdown=GRACE_S,
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
    allow_files(app.state.context.settings.connections)
    # asyncio sets this only for sockets that name their protocol. Without it, each answer takes 40 ms longer.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # uvicorn raises a signal again after it has stopped, which must not kill this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    Server(app, ready).run(sockets=[listener])


def allow_files(limits: ConnectionLimits) -> None:
    """Raise this process's limit of open files, often 1024, for all connections, as far as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = limits.authorized + BURST + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))
