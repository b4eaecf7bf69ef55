"""Parts of the client that need no training server: addresses, tokens, redirects, events, and the command line."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from asr_lightning.__main__ import main
from asr_lightning.client import Client, ConnectionFailedError, ServerError
from asr_lightning.client.errors import problem
from asr_lightning.client.events import Event, parse

TOKEN = "canary-token-3f9a7c51"


@contextmanager
def http_server(answer) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server that calls ``answer(handler)`` for every request; gives its address and the headers of the requests."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(status: int, body: bytes = b"", **headers: str):
    """An ``answer`` for ``http_server``."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def test_the_token_follows_no_redirect() -> None:
    with http_server(send(200, b'{"data": []}')) as (elsewhere, stolen):  # noqa: SIM117
        with http_server(send(307, Location=f"{elsewhere}/v1/models")) as (url, seen):
            with Client(url, TOKEN) as client, pytest.raises(ServerError, match="not followed") as caught:
                client.models()
            assert seen[0]["Authorization"] == f"Bearer {TOKEN}"
    assert stolen == []
    assert TOKEN not in str(caught.value)


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setenv("ASR_SERVER_TOKEN", TOKEN)
    with Client("http://127.0.0.1:9", retries=0) as client:
        assert TOKEN not in repr(client)
        with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1:9.*check that the server runs") as caught:
            client.models()
        assert TOKEN not in str(caught.value)
    with pytest.raises(ValueError, match="copy it again") as refused:
        Client("http://127.0.0.1:9", f"{TOKEN}\nX-Evil: 1")
    assert TOKEN not in str(refused.value)
    with Client("http://example.org", TOKEN):
        assert "not encrypted" in caplog.text
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:5553", "ftp://host", "http://", "http://host/?token=1", "http://host:x"]
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(ValueError, match=r"write it as http://127\.0\.0\.1:5553"):
        Client(url)


def test_no_password_in_an_address() -> None:
    with pytest.raises(ValueError, match="ASR_SERVER_TOKEN") as caught:
        Client("http://me:secret@host")
    assert "secret" not in str(caught.value)


def test_a_server_that_is_away_for_a_while_is_asked_again() -> None:
    answers = [send(502), send(524), send(200, b'{"data": [{"name": "m"}]}')]
    with http_server(lambda handler: answers.pop(0)(handler)) as (url, seen), Client(url, pause_s=0.001) as client:
        assert client.models() == [{"name": "m"}]
    assert len(seen) == 3


@pytest.mark.parametrize("status", [401, 409, 413, 422, 500, 507])
def test_a_refusal_is_not_repeated(status: int) -> None:
    with http_server(send(status, b'{"code": "busy", "detail": "one \\u001b[2J training"}')) as (url, seen):  # noqa: SIM117
        with Client(url) as client, pytest.raises(ServerError) as caught:
            client.models()
    assert len(seen) == 1
    assert (caught.value.code, caught.value.status) == ("busy", status)
    assert "\x1b" not in str(caught.value) and "cancel it" in str(caught.value)


@pytest.mark.parametrize("body", [b"", b"<html>nginx</html>", b"[]", b'{"code": 3}', b"\xff\xfe"])
def test_an_error_of_a_proxy_is_one_of_ours(body: bytes) -> None:
    assert problem(418, body).code in ("http_418", "3")


def test_a_web_page_is_no_training_server() -> None:
    with http_server(send(200, b"<html>")) as (url, _), Client(url) as client:  # noqa: SIM117
        with pytest.raises(ServerError, match="is no training server"):
            client.models()


def test_events_as_text() -> None:
    whole = 'data: {"seq": 1, "time": "t", "kind": "state", "data": {"state": "queued"}}'
    split = ["event: progress", 'data: {"seq": 2, "time": "t", "kind": "progress",', 'data: "data": {"epoch": 1}}']
    lines = [": ping", "", "retry: 10", "", "id: 1", whole, "", "id:2", *split, "", "event: end", "data: {}", ""]
    events = list(parse([*lines, "id: 3", whole]))  # the last one is cut off
    assert events == [Event(1, "t", "state", {"state": "queued"}), Event(2, "t", "progress", {"epoch": 1})]
    with pytest.raises(ServerError, match="cannot be read"):
        list(parse(["id: 1", "data: {", ""]))


def test_an_empty_id_is_not_the_list() -> None:
    with Client("http://127.0.0.1:9") as client:
        for job_id in ("", ".", ".."):
            with pytest.raises(ValueError, match="id of the job is empty"):
                client.delete(job_id)


@pytest.mark.parametrize("key", ["a b", "x" * 256, "a\n", "ä"])
def test_keys_that_cannot_be_sent(key: str, tmp_path) -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(ValueError, match="the key .* must be"):
        client.submit(tmp_path / "missing", "m", key=key)


def test_help_loads_no_client() -> None:
    call = [sys.executable, "-X", "importtime", "-m", "asr_lightning", "remote", "submit", "--help"]
    result = subprocess.run(call, capture_output=True, text=True)
    assert result.stdout.startswith("usage: python -m asr_lightning remote submit")
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert not imported & {"torch", "numpy", "httpx", "tqdm", "soundfile"}


def test_the_client_loads_no_torch() -> None:
    code = "import sys, asr_lightning.client, asr_lightning.cli.remote\n"
    code += "print([m for m in ('torch', 'lightning', 'transformers', 'nemo') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_command_says_what_to_do(capsys, tmp_path) -> None:
    assert main(["remote", "status", "--server", "http://127.0.0.1:9"]) == 2
    assert "error: no answer from http://127.0.0.1:9" in capsys.readouterr().err
    assert main(["remote", "submit", str(tmp_path / "missing")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    (tmp_path / "data.zip").write_bytes(b"PK")
    assert main(["remote", "submit", str(tmp_path / "data.zip")]) == 2
    assert "is no tar.gz; give the folder" in capsys.readouterr().err
