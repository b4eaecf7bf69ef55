"""Which connections a server keeps open, so that clients without a token cannot keep the others out.

A connection is anonymous until a request on it was authorized. There is a limit for anonymous connections, and another
for those of one address; new connections above a limit close the oldest anonymous ones. A new connection is therefore
always accepted, and a short request such as ``GET /healthz`` is answered however many idle connections there are.
Authorized connections have a limit of their own, so that anonymous ones never take their places.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Protocol

from starlette.types import Scope

from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.settings import ConnectionLimits

KEY = "asr_lightning.connection"
"""The entry of ``scope["state"]`` with the connection of a request."""
TRIM_S = 0.2
"""Seconds between two rounds that close connections. A connection that came since the round before is left alone.

Time alone would not do: asyncio may accept hundreds of connections before it reads what the first of them has sent.
"""
BURST = 4096
"""Anonymous connections from which on the oldest is closed at once, so that the process does not run out of files."""


class Connection(Protocol):
    """What is kept of a connection."""

    peer: str

    def is_idle(self) -> bool:
        """Whether no request is being answered."""

    def close(self) -> None:
        """Close it; ``Connections.forget`` follows."""


class Connections:
    """The open connections of a server. It belongs to one event loop.

    Args:
        limits: How many there may be.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._anonymous: dict[str, dict[Connection, int]] = {}  # by address, with the round of arrival, oldest first
        self._authorized: dict[Connection, None] = {}
        self._count = 0
        self._round, self._trimming = 0, False

    def add(self, connection: Connection) -> None:
        """Keep a new connection, and close older anonymous ones that are above a limit."""
        own = self._anonymous.setdefault(connection.peer, {})
        own[connection] = self._round
        self._count += 1
        if self._count > BURST:
            self._close_oldest(self._largest())
        if not self._trimming and self._is_excess(own):
            self._trim_later()

    def _largest(self) -> dict[Connection, int]:
        """The anonymous connections of the address that has the most."""
        return max(self._anonymous.values(), key=len)

    def _is_excess(self, own: dict[Connection, int]) -> bool:
        """Whether the connections of one address, or all of them, are above their limit."""
        return len(own) > self.limits.anonymous_of_address or self._count > self.limits.anonymous

    def _trim_later(self) -> None:
        self._trimming = True
        asyncio.get_running_loop().call_later(TRIM_S, self._trim)

    def _trim(self) -> None:
        """Close connections above the limits that came before the last round, and go on until none is above them."""
        self._round, self._trimming = self._round + 1, False
        while self._anonymous and self._is_excess(own := self._largest()):
            if next(iter(own.values())) > self._round - 2:
                self._trim_later()
                return
            self._close_oldest(own)

    def _close_oldest(self, connections: dict[Connection, int]) -> None:
        oldest = next(iter(connections))
        self.forget(oldest)
        oldest.close()

    def admit(self, connection: Connection) -> None:
        """A request on ``connection`` was authorized: it is no longer anonymous.

        Raises:
            Problem: All places are taken by requests that are being answered.
        """
        if connection in self._authorized:
            return
        if len(self._authorized) >= self.limits.authorized:
            idle = next((other for other in self._authorized if other.is_idle()), None)
            if idle is None:
                raise Problem("unavailable", "too many requests are being answered: try again soon")
            self.forget(idle)
            idle.close()
        self.forget(connection)
        self._authorized[connection] = None

    def forget(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self._authorized.pop(connection, None)
        own = self._anonymous.get(connection.peer, {})
        if own.pop(connection, None) is not None:
            self._count -= 1
        if not own:
            self._anonymous.pop(connection.peer, None)


def admit(scope: Scope) -> None:
    """Tell the connection of a request that the request is authorized.

    Raises:
        Problem: All places are taken by requests that are being answered.
    """
    admission = scope.get("state", {}).get(KEY)
    if admission is not None:  # without a socket, as in tests, there is none
        admission()


def peer_of(address: str) -> str:
    """The client behind ``address``: itself, or its network of 64 bits, which is the least that an IPv6 client has."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(parsed.ipv4_mapped or ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
