"""A TCP proxy that cuts connections where a test wants it."""

from __future__ import annotations

import contextlib
import socket
import threading

BLOCK = 1 << 16


class CuttingProxy:
    """Forwards connections to a port of this machine, cuts some of them, and counts.

    Attributes:
        port: Port that it listens on.
        up: Number of bytes forwarded to the server so far.
        down: Number of bytes forwarded to the client so far.
        cuts: Number of connections cut so far.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.up = self.down = self.cuts = 0
        self._lock = threading.Lock()
        self._lost: tuple[bytes, int] = (b"", 0)
        self._budgets: dict[str, list[int]] = {"up": [], "down": []}
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> CuttingProxy:
        return self

    def __exit__(self, *_: object) -> None:
        # A blocked accept would not notice a close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lose_answers(self, to: bytes, times: int) -> None:
        """Let the next requests that start with ``to`` reach the server, but not its answers the client."""
        self._lost = (to, times)

    def cut(self, direction: str, after: int, times: int) -> None:
        """Cut the next connections that carry more than ``after`` bytes "up" or "down" after that many bytes."""
        self._budgets[direction] = [after] * times

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                client.close()
                continue
            link = _Link(client, server)
            for source, target, direction in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._pump, args=(link, source, target, direction), daemon=True).start()

    def _pump(self, link: _Link, source: socket.socket, target: socket.socket, direction: str) -> None:
        try:
            while data := source.recv(BLOCK):
                if not self._passes(link, data, direction, target):
                    break
        except OSError:
            pass
        link.close()

    def _passes(self, link: _Link, data: bytes, direction: str, target: socket.socket) -> bool:
        """Forward ``data``; returns False if the connection must be cut."""
        with self._lock:
            to, times = self._lost
            if direction == "up" and times and data.startswith(to):
                self._lost, link.is_lost = (to, times - 1), True
            if direction == "down" and link.is_lost:
                self.cuts += 1
                return False
            budgets = self._budgets[direction]
            allowed = budgets[0] - link.carried[direction] if budgets else len(data)
            is_cut = allowed < len(data)
            if is_cut:
                budgets.pop(0)
                self.cuts += 1
                data = data[: max(allowed, 0)]
            link.carried[direction] += len(data)
            setattr(self, direction, getattr(self, direction) + len(data))
        target.sendall(data)
        return not is_cut


class _Link:
    """Both ends of one connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends = (client, server)
        self.is_lost = False
        self.carried = {"up": 0, "down": 0}

    def close(self) -> None:
        for end in self.ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
