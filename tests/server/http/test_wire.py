"""Behaviour that needs real connections: slow and incomplete requests, pings, cut uploads, many open streams."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import httpx

from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http import run
from asr_lightning.server.http.settings import ConnectionLimits
from tests.server import driver
from tests.server.http.conftest import GZIP, QUICK_LIMITS, TOKEN, client_of

HEAD = b"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=cut\r\n"


@contextlib.contextmanager
def live(engine: Engine, **changes: object) -> Iterator[int]:
    """The application on a real socket; gives the port."""
    ready = threading.Event()
    server = run.Server(client_of(engine, **changes).app, ready.set)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert ready.wait(10)
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


def seconds_to_the_end(port: int, *pieces: bytes, pause: float = 0.05) -> tuple[float, bytes]:
    """How long the server keeps a connection that sends ``pieces`` and then one byte now and then, and its answer."""
    started, answer = time.monotonic(), b""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=pause) as connection,
        contextlib.suppress(ConnectionError),
    ):
        for piece in pieces:
            connection.sendall(piece)
        while time.monotonic() - started < 10:
            with contextlib.suppress(TimeoutError):
                if not (data := connection.recv(65_536)):
                    break
                answer += data
            connection.sendall(b"x")
    return time.monotonic() - started, answer


def test_t04_no_connection_is_held_by_a_slow_client(shared: Engine) -> None:
    with live(
        shared, body=QUICK_LIMITS, token=TOKEN, connections=ConnectionLimits(first_byte_s=0.4, head_s=0.4)
    ) as port:
        assert seconds_to_the_end(port)[0] < 5  # a head that never ends
        waited, answer = seconds_to_the_end(port, HEAD, b"Content-Length: 900000\r\n\r\n")  # a body that was refused
        assert waited < 5 and b"401 Unauthorized" in answer
        right = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
        for length in (b"Content-Length: 900000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
            waited, answer = seconds_to_the_end(port, HEAD, right, length, b"5\r\n--cut\r\n")
            assert waited < 5 and answer.startswith(b"HTTP/1.1 4"), answer
        idle = socket.create_connection(("127.0.0.1", port), timeout=5)
        assert idle.recv(1) == b""  # says nothing at all
        idle.close()


def test_t04_a_cut_upload_keeps_what_arrived_and_a_cut_form_nothing(engine: Engine) -> None:
    with live(engine) as port, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
        upload = http.post("/v1/uploads").json()["id"]
        data = GZIP * 10_000
        head = f"PUT /v1/uploads/{upload}?offset=0 HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(data)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(head.encode() + data[: len(data) // 2])
        received = driver.wait(lambda: http.get(f"/v1/uploads/{upload}").json()["received"], "the half")
        assert received == len(data) // 2
        answer = http.put(f"/v1/uploads/{upload}", params={"offset": received}, content=data[received:])
        assert answer.json()["received"] == len(data)
        assert (engine.home.path / "uploads" / upload).read_bytes() == data
        with socket.create_connection(("127.0.0.1", port)) as connection:
            part = b'--cut\r\nContent-Disposition: form-data; name="data"; filename="a"\r\n\r\n' + data
            connection.sendall(HEAD + b"Content-Length: 9000000\r\n\r\n" + part)
            driver.wait(lambda: len(list((engine.home.path / "uploads").iterdir())) == 2, "the form's file")
        driver.wait(lambda: len(list((engine.home.path / "uploads").iterdir())) == 1, "it to be removed")


def test_streams_ping_and_share_one_look_at_the_store(engine: Engine) -> None:
    job = driver.reach(engine, driver.submit(engine, data=b"stuck"), "validating")
    looks = 0
    ask = engine.events

    def counted(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        return ask(*arguments)

    engine.events = counted  # type: ignore[method-assign]
    pings, ends = [], []

    def follow() -> None:
        headers = {"Accept": "text/event-stream"}
        with httpx.stream("GET", f"{url}/events", headers=headers, trust_env=False, timeout=20) as stream:
            for line in stream.iter_lines():
                if line == ": ping":
                    pings.append(line)
                if line == "event: end":
                    ends.append(line)

    with live(engine, ping_s=0.2, poll_s=0.05) as port:
        url = f"http://127.0.0.1:{port}/v1/jobs/{job.id}"
        threads = [threading.Thread(target=follow) for _ in range(20)]
        for thread in threads:
            thread.start()
        driver.wait(lambda: len(pings) >= 40, "two pings each")
        started, looks = time.monotonic(), 0
        time.sleep(0.5)
        assert looks <= (time.monotonic() - started) / 0.05 + 2
        engine.cancel(job.id)
        for thread in threads:
            thread.join(10)
        assert len(ends) == 20
