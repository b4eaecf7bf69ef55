"""Clients without a token cannot keep the others out, however many connections they hold."""

from __future__ import annotations

import contextlib
import http.client
import resource
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http.connections import peer_of
from asr_lightning.server.http.settings import ConnectionLimits
from tests.server import driver
from tests.server.http.conftest import TOKEN
from tests.server.http.test_wire import live
from tests.server.served import Served

IDLE = 2000
RIGHT = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process open a socket for each idle connection."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + 500
    if before[0] < wanted:
        assert before[1] == resource.RLIM_INFINITY or before[1] >= wanted, "this test needs 2,500 open files"
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Flood:
    """Holds ``IDLE`` connections that send nothing, and replaces each one that the server closes."""

    def __init__(self, port: int) -> None:
        self._port, self._ending, self.replaced = port, threading.Event(), 0
        self._selector = selectors.DefaultSelector()
        for _ in range(IDLE):
            self._open()
        self._thread = threading.Thread(target=self._renew)
        self._thread.start()

    def _open(self) -> None:
        connection = socket.create_connection(("127.0.0.1", self._port), timeout=10)
        self._selector.register(connection, selectors.EVENT_READ)

    def _renew(self) -> None:
        while not self._ending.wait(0.05):
            for key, _ in self._selector.select(0)[:20]:
                self._selector.unregister(key.fileobj)
                key.fileobj.close()
                self._open()
                self.replaced += 1

    def end(self) -> None:
        self._ending.set()
        self._thread.join(10)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()


def test_t32_two_thousand_idle_connections_keep_nobody_out(tmp_path: Path, many_files: None) -> None:
    with Served(tmp_path / "home", TOKEN) as server:
        flood = Flood(server.port)
        try:
            for path, headers in [("/healthz", {}), ("/status", RIGHT)] * 10:
                started = time.monotonic()
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
                with contextlib.closing(connection):
                    connection.request("GET", path, headers=headers)
                    assert connection.getresponse().status == 200, path
                assert time.monotonic() - started < 1, path
            driver.wait(lambda: flood.replaced > 100, "idle connections to be closed")
        finally:
            flood.end()


@contextlib.contextmanager
def silent(port: int, number: int) -> Iterator[list[socket.socket]]:
    """Connections that send nothing, the oldest first."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)) for _ in range(number)]


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


def test_t32_an_address_has_few_anonymous_connections_and_keeps_its_authorized_one(shared: Engine) -> None:
    limits = ConnectionLimits(anonymous_of_address=4)
    with (
        live(shared, token=TOKEN, connections=limits) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        client.get("/status", headers=RIGHT)  # its connection is kept for the next request
        own = client._transport._pool.connections[0]  # type: ignore[attr-defined]
        with silent(port, 10) as idle:
            driver.wait(lambda: [is_closed(each) for each in idle] == [True] * 6 + [False] * 4, "six to be closed")
            assert client.get("/status", headers=RIGHT).status_code == 200
            assert client._transport._pool.connections == [own]  # type: ignore[attr-defined]


def test_t32_when_all_places_of_authorized_requests_are_taken_health_is_still_answered(shared: Engine) -> None:
    job = driver.submit(shared, data=b"stuck").id
    stream = {**RIGHT, "Accept": "text/event-stream"}
    with (
        live(shared, token=TOKEN, connections=ConnectionLimits(authorized=1)) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10) as client,
        client.stream("GET", f"/v1/jobs/{job}/events", headers=stream),
    ):
        refused = client.get("/status", headers=RIGHT)
        assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/healthz").status_code == 200
        shared.cancel(job)


def test_t04_the_first_byte_and_the_head_must_arrive_soon(shared: Engine) -> None:
    limits = ConnectionLimits(first_byte_s=0.2, head_s=1.0)
    with live(shared, connections=limits) as port, silent(port, 2) as (first, second):
        started = time.monotonic()
        second.sendall(b"GET /healthz")
        assert first.recv(1) == b""
        waited = time.monotonic() - started
        assert second.recv(1) == b""
        assert waited < 0.8 < time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_the_network_of_a_client_counts_as_one_address(address: str, peer: str) -> None:
    assert peer_of(address) == peer
