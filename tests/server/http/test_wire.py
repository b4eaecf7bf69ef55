"""Behaviour that needs real connections: slow and incomplete requests, pings, cut uploads, many open streams."""

from __future__ import annotations

import contextlib
import dataclasses
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
        try:
            yield listener.getsockname()[1]
        finally:
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


def exchange(port: int, *pieces: bytes, pause: float = 0.0) -> bytes:
    """Everything that the server sends until it closes the connection, or for two seconds."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
        with contextlib.suppress(TimeoutError):
            while data := connection.recv(65_536):
                answer += data
            answer += b"<closed>"
    return answer


def test_t33_two_lengths_of_a_body_are_refused_and_the_connection_is_closed(shared: Engine) -> None:
    smuggled = b"GET /version HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n"
    with live(shared, token=TOKEN) as port:
        for head in (
            b"POST /v1/uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n" + chunked,
            b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n" + chunked + b"Content-Length: 50\r\n",
            b"POST /v1/uploads HTTP/1.0\r\nHost: 127.0.0.1\r\n" + chunked,
        ):
            answer = exchange(port, head + b"\r\n0\r\n\r\n" + smuggled)
            assert answer.startswith(b"HTTP/1.1 400 "), answer
            assert b'"code":"bad_request"' in answer and b"connection: close" in answer.lower()
            assert answer.count(b"HTTP/1.1 ") == 1 and answer.endswith(b"<closed>")


def test_t26_streams_above_the_limit_are_refused_before_the_answer(engine: Engine) -> None:
    job = driver.submit(engine, "slow").id
    sent = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n".encode()
    with live(engine, streams=3, ping_s=0.1) as port, contextlib.ExitStack() as stack:
        open_streams = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5)) for _ in range(12)
        ]
        for connection in open_streams:  # all at once: none of them is running yet when the next is answered
            connection.sendall(sent)
        heads = [connection.recv(4096).split(b"\r\n")[0] for connection in open_streams]
        assert sorted(heads) == [b"HTTP/1.1 200 OK"] * 3 + [b"HTTP/1.1 503 Service Unavailable"] * 9
        for connection, head in zip(open_streams, heads, strict=True):
            if b"200" in head:
                driver.wait(lambda connection=connection: b"ping" in connection.recv(4096), "a ping")
        engine.cancel(job)


def test_a_client_that_is_still_sending_gets_the_answer(shared: Engine) -> None:
    """A field of 1 MB, a body that is too large and a head that is too long, with a connection that is to be closed."""
    start = b'--cut\r\nContent-Disposition: form-data; name="model"\r\n\r\n'
    pieces = [b"q" * 65_536] * 16
    with live(shared, body=dataclasses.replace(QUICK_LIMITS, patience_s=5, total_s=5)) as port:
        for lines in (b"Content-Length: 1048640\r\n", b"Connection: close\r\nContent-Length: 1048500\r\n"):
            answer = exchange(port, HEAD + lines + b"\r\n" + start, *pieces, pause=0.01)
            status = b"413" if b"1048640" in lines else b"422"
            assert answer.startswith(b"HTTP/1.1 " + status), (lines, answer)
        answer = exchange(port, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", *pieces, pause=0.01)
        assert answer.startswith(b"HTTP/1.1 400"), answer
