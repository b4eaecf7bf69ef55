"""A TCP proxy that cuts connections where a test says so."""

from __future__ import annotations

import contextlib
import socket
import threading

BLOCK = 1 << 16


class CuttingProxy:
    """Forwards to a port of this machine; cuts what it is told to cut, and counts.

    Attributes:
        port: Where it listens.
        up: Bytes forwarded to the server so far.
        down: The same to the client.
        cuts: Connections cut so far.
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
        # A blocked accept does not notice a close.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lose_answers(self, to: bytes, times: int) -> None:
        """The server gets the next requests that start with ``to``; its answers never arrive."""
        self._lost = (to, times)

    def cut(self, direction: str, after: int, times: int) -> None:
        """The next connections that carry more than ``after`` bytes "up" or "down" are cut there."""
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
        """Forward ``data``; False where the connection is to be cut."""
        with self._lock:
            to, times = self._lost
            if direction == "up" and times and data.startswith(to):
                self._lost, link.is_lost = (to, times - 1), True
            if direction == "down" and link.is_lost:
                self.cuts += 1
                return False
            budgets = self._budgets[direction]
            left = budgets[0] - link.carried[direction] if budgets else len(data)
            is_cut = left < len(data)
            if is_cut:
                budgets.pop(0)
                self.cuts += 1
                data = data[: max(left, 0)]
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
