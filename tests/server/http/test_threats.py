"""The threats that come over HTTP, by their numbers in docs/server_promises.md."""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http import models, sink
from tests.server import driver
from tests.server.http.conftest import GZIP, QUICK_LIMITS, client_of, form

BOUNDARY = b"--cut"
MULTIPART = {"Content-Type": "multipart/form-data; boundary=cut"}
Usage = namedtuple("Usage", "total used free")


def multipart(*parts: tuple[bytes, bytes], end: bytes = b"--\r\n") -> bytes:
    """A form by hand: head and content of each part."""
    body = b"".join(BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return body + BOUNDARY + end


def field(name: str, more: str = "") -> bytes:
    return f'Content-Disposition: form-data; name="{name}"{more}'.encode()


def leftovers(engine: Engine) -> list[Path]:
    return list((engine.home.path / "uploads").iterdir())


def test_t04_too_large_with_and_without_a_length(look: TestClient, shared: Engine) -> None:
    twice = GZIP + b"x" * 2 * QUICK_LIMITS.upload
    answer = look.post("/training", data={"base_model_name": "quick"}, files=form(twice))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        yield BOUNDARY + b"\r\n" + field("data", '; filename="x"') + b"\r\n\r\n" + GZIP
        for _ in range(1000):
            sent += 1
            yield b"x" * 65_536

    for path in ("/training", "/v1/jobs", "/v1/datasets/validate"):
        answer = look.post(path, content=endless(), headers=MULTIPART)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert look.post("/v1/uploads", content=b"x" * 2000).status_code == 413  # other bodies are small
    assert leftovers(shared) == []


def test_t04_slow_senders_are_cut_off(shared: Engine) -> None:
    """At the ASGI boundary: a sender that says half a form and then waits."""
    import anyio

    app = client_of(shared, body=QUICK_LIMITS).app
    sent: list[dict] = []

    async def ask() -> None:
        first = [{"type": "http.request", "body": BOUNDARY, "more_body": True}]

        async def receive() -> dict:
            if first:
                return first.pop()
            await anyio.sleep(60)
            raise AssertionError

        async def send(message: dict) -> None:
            sent.append(message)

        headers = [(b"host", b"127.0.0.1"), (b"content-type", MULTIPART["Content-Type"].encode())]
        scope = {"type": "http", "method": "POST", "path": "/training", "raw_path": b"", "query_string": b"",
                 "headers": headers, "client": ("127.0.0.1", 1), "scheme": "http", "root_path": ""}  # fmt: skip
        await app(scope, receive, send)

    started = time.monotonic()
    anyio.run(ask)
    assert time.monotonic() - started < 2
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]
    assert json.loads(sent[1]["body"])["code"] == "timeout"
    assert leftovers(shared) == []


def test_t04_a_full_disk_is_said(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    http = client_of(engine, min_free_bytes=1 << 20)
    upload = http.post("/v1/uploads").json()["id"]
    monkeypatch.setattr(sink.shutil, "disk_usage", lambda _: Usage(1 << 30, 0, 1 << 20))
    for answer in (
        http.post("/training", data={"base_model_name": "quick"}, files=form()),
        http.put(f"/v1/uploads/{upload}", params={"offset": 0}, content=GZIP),
    ):
        assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    monkeypatch.setattr(sink.shutil, "disk_usage", lambda _: Usage(1 << 50, 0, 1 << 50))

    def no_space(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patch:
        patch.setattr(sink.os, "write", no_space)
        assert http.post("/training", data={"base_model_name": "quick"}, files=form()).status_code == 507
    assert [path.name for path in leftovers(engine)] == [upload]
    assert engine.jobs() == []
    assert http.put(f"/v1/uploads/{upload}", params={"offset": 0}, content=GZIP).status_code == 200


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.EIO, "Input/output error"),
        sqlite3.OperationalError("database or disk is full"),
        sqlite3.OperationalError("attempt to write a readonly database"),
    ],
    ids=str,
)
def test_p10_a_disk_that_fails_is_said(engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    http = client_of(engine)
    monkeypatch.setattr(engine, "submit", fails)
    answer = http.post("/v1/jobs", data={"model": "quick"}, files=form())
    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    assert leftovers(engine) == []
    assert http.get("/status").status_code == 200


def test_t05_hostile_forms(look: TestClient, shared: Engine) -> None:
    model, data = (field("base_model_name"), b"quick"), (field("data", '; filename="x"'), GZIP)
    forms = {
        "preamble": b"x" * 500_000 + multipart(model, data),
        "many fields": multipart(*[(field("epochs"), b"1")] * 10_000),
        "many empty parts": multipart(*[(b"A: b", b"")] * 10_000),
        "many headers": multipart((b"\r\n".join([b"A: b"] * 1000) + b"\r\n" + field("data"), GZIP)),
        "long header": multipart((b"A: " + b"b" * 100_000 + b"\r\n" + field("data"), GZIP)),
        "two files": multipart(model, data, data),
        "twice a field": multipart(model, model, data),
        "long value": multipart((field("base_model_name"), b"q" * 100_000), data),
        "no UTF-8": multipart((field("base_model_name"), b"\xff\xfe"), data),
        "no name": multipart(model, (b"Content-Disposition: form-data", GZIP)),
        "no end": multipart(model, data, end=b"\r\n"),
        "cut off": multipart(model, data)[:-30],
        "empty": b"",
        "only an end": BOUNDARY + b"--\r\n",
    }
    for name, body in forms.items():
        started = time.monotonic()
        answer = look.post("/training", content=body, headers=MULTIPART)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter"), name
        assert time.monotonic() - started < 2, name
    for kind in ("multipart/form-data", "multipart/form-data; boundary=" + "b" * 300, "multipart/mixed; boundary=cut"):
        answer = look.post("/training", content=multipart(model, data), headers={"Content-Type": kind})
        assert answer.status_code in (415, 422), kind
    assert leftovers(shared) == []


def test_t05_the_clients_file_name_is_ignored(engine: Engine) -> None:
    http = client_of(engine)
    for name in ("../../../evil", "/etc/evil", "a\\..\\b", "state.db", "-rf", "x" * 3000):
        answer = http.post("/v1/jobs", data={"model": "quick"}, files=form(name=name))
        assert answer.status_code == 202, name
    names = {path.name for path in engine.home.path.rglob("*")} | {
        path.name for path in engine.home.path.parent.iterdir()
    }
    assert not any("evil" in name or "x" * 100 in name or "\\" in name for name in names)


def test_t11_zip_is_not_taken(look: TestClient) -> None:
    for data in (b"PK\x03\x04zip", b"\x1f", b"\x1f\x8c", b"BZh9", b"\xfd7zXZ", b"data\0ustar"):
        assert look.post("/training", data={"base_model_name": "quick"}, files=form(data)).status_code in (415, 422)


def test_t12_models_are_looked_up_and_nothing_else(look: TestClient, tmp_path: Path) -> None:
    hostile = (
        "https://evil.example/model", "../../etc", "/etc/passwd", "./quick", "quick/", "quick\0", "openai/../quick",
        "оpenai/whisper-tiny", "openai/whisper-tiny ", "OPENAI/WHISPER-TINY", "file:///tmp", "{}", "--model",
    )  # fmt: skip
    for name in hostile:
        answer = look.post("/training", data={"base_model_name": name}, files=form())
        assert (answer.status_code, answer.json()["code"]) == (422, "model_not_allowed"), name
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text("{}")
    (tmp_path / "not a model").mkdir()
    catalogue = models.catalogue(tmp_path)
    assert catalogue.resolve("mine", "model") == "mine"
    assert catalogue.sources["mine"] == str(tmp_path / "mine")
    assert catalogue.resolve("openai/whisper-tiny", "model") == "whisper-tiny"  # a name in the predecessor's README
    assert "not a model" not in catalogue.sources
    (tmp_path / "mine").rename(tmp_path / "whisper-tiny")
    with pytest.raises(ValueError, match="rename the folder"):
        models.catalogue(tmp_path)


def test_t16_no_path_is_built_from_an_id_or_a_name(look: TestClient, done: str) -> None:
    hostile = (
        "%2e%2e%2f%2e%2e", "..%2fstate.db", "%2e%2e%2f", "..%252f", "x%00", "a%5c..%5cb", "%2fetc%2fpasswd", "x" * 65,
        "-", "%ff", "a b", "é",
    )  # fmt: skip
    for name in hostile:
        for path in (f"/v1/jobs/{name}", f"/v1/jobs/{name}/logs", f"/v1/jobs/{done}/artifacts/{name}",
                     f"/v1/uploads/{name}", f"/v1/jobs/{name}/artifacts/model.tar.gz"):  # fmt: skip
            answer = look.get(path)
            assert answer.status_code in (404, 405), path
            assert "root:" not in answer.text and "SQLite" not in answer.text
        assert look.get("/download_model", params={"training_id": name}).status_code == 404
        assert look.get("/status", params={"training_id": name}).status_code == 404


def test_t17_only_bounded_scalars(look: TestClient) -> None:
    for name, value in {
        "epochs": ["101", "-1", "1e9", "9" * 5000, "１", "0x10", " 1", "1 ", "true", "nan"],
        "seed": [str(2**31), "-1", "a"],
        "language": ["e", "x" * 5000, "class_path: os.system", "de\nen", "!!python/object"],
        "trainer.max_epochs": ["1"],
        "config": ["a.yaml"],
        "ASR_HOME": ["/tmp"],
    }.items():
        for text in value:
            answer = look.post("/v1/jobs", data={"model": "quick", name: text}, files=form())
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_parameter"), (name, text)
            assert answer.json()["param"] == name
    for wrong in (True, 1.5, "1.5", [], {}, -1):
        answer = look.post("/v1/jobs", json={"model": "quick", "upload": "x", "epochs": wrong})
        assert answer.json()["code"] == "invalid_parameter", wrong


def test_t18_no_shell_or_option_in_a_language(look: TestClient) -> None:
    for language in ("en; rm -rf /", "$(id)", "`id`", "--config=x", "-x", "en\0", "en|id", "en&&id", "zz", "../en"):
        answer = look.post("/v1/jobs", data={"model": "quick", "language": language}, files=form())
        assert (answer.status_code, answer.json()["param"]) == (422, "language"), language


def test_t19_nothing_the_client_writes_is_served_as_a_page(look: TestClient, engine: Engine) -> None:
    script = "<script>alert(1)</script>"
    for answer in (
        look.get(f"/v1/jobs/{script}"),
        look.post("/v1/jobs", data={script: "1"}, files=form()),
        look.get("/v1/jobs", params={"limit": script}),
    ):
        assert answer.headers["content-type"] in ("application/problem+json", "application/json")
        assert answer.headers["x-content-type-options"] == "nosniff"
    job = driver.reach(engine, driver.submit(engine), "succeeded")
    policy = client_of(engine).get(f"/v1/jobs/{job.id}/report.html").headers["content-security-policy"]
    assert "script-src" not in policy and "default-src 'none'" in policy and "sandbox" in policy


def test_t20_nothing_tells_of_the_host(engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    job = driver.reach(engine, driver.submit(engine, "oom"), "failed")
    http = client_of(engine)
    paths = ["/", "/status", "/v1/jobs", "/v1/models", "/metrics", "/openapi.json", "/version", "/healthz", "/nothing"]
    shown = [http.get(path).text for path in [*paths, f"/v1/jobs/{job.id}", f"/v1/jobs/{job.id}/events"]]
    shown.append(http.delete(f"/v1/jobs/{job.id}").text)

    def broken(*_: object) -> None:
        raise RuntimeError(f"secret at {engine.home.path}")

    monkeypatch.setattr(engine, "jobs", broken)
    answer = http.get("/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers["cache-control"] == "no-store"
    assert f"incident {answer.json()['incident']}" in caplog.text
    for text in [*shown, answer.text]:
        assert str(engine.home.path) not in text
        assert "Traceback" not in text and "secret" not in text and str(Path.home()) + "/" not in text


def test_t24_caps_of_jobs_uploads_and_streams(tmp_path: Path) -> None:
    with driver.running(tmp_path / "home", queue_cap=2) as engine:
        http = client_of(engine, uploads=2, streams=1)
        made = [http.post("/v1/jobs", data={"model": "slow"}, files=form()) for _ in range(3)]
        assert [answer.status_code for answer in made] == [202, 202, 409]
        assert made[2].json()["code"] == "busy"
        uploads = [http.post("/v1/uploads") for _ in range(3)]
        assert [answer.status_code for answer in uploads] == [201, 201, 503]
        assert int(uploads[2].headers["retry-after"]) > 0
        assert http.post("/v1/uploads", json={"size": 1 << 50}).json()["code"] == "too_large"


def test_t25_a_key_used_again_for_something_else(engine: Engine) -> None:
    http = client_of(engine)
    key = {"Idempotency-Key": "one"}
    first = http.post("/v1/jobs", data={"model": "slow"}, files=form(), headers=key)
    same = http.post("/v1/jobs", data={"model": "slow"}, files=form(), headers=key)
    assert first.json()["id"] == same.json()["id"]
    for data, file in (({"model": "slow", "epochs": "9"}, form()), ({"model": "slow"}, form(GZIP + b"other"))):
        answer = http.post("/v1/jobs", data=data, files=file, headers=key)
        assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")
    for wrong in ("", "x" * 256, "a b", "é"):
        answer = http.post(
            "/v1/jobs", data={"model": "slow"}, files=form(), headers={"Idempotency-Key": wrong.encode()}
        )
        assert answer.json()["param"] == "Idempotency-Key"
    assert len(engine.jobs()) == 1


def test_t26_streams_are_bounded_and_logs_come_in_pieces(engine: Engine) -> None:
    job = driver.reach(engine, driver.submit(engine, "flood"), "succeeded")
    http = client_of(engine, streams=1)
    path = f"/v1/jobs/{job.id}"
    assert len(http.get(f"{path}/logs").content) <= 1 << 20
    feed = http.app.state.context.feed
    feed.take_seat()
    for ask in ({"headers": {"Accept": "text/event-stream"}}, {"params": {"follow": 1}}):
        answer = http.get(f"{path}/{'logs' if 'params' in ask else 'events'}", **ask)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    feed.leave_seat()
    assert feed.open == 0
    assert http.get(f"{path}/events", headers={"Accept": "text/event-stream"}).status_code == 200
    assert (feed.open, feed._watches) == (0, {})


def test_t27_a_planted_link_is_not_followed(engine: Engine, tmp_path: Path) -> None:
    job = driver.reach(engine, driver.submit(engine), "succeeded")
    secret = tmp_path / "secret"
    secret.write_text("SECRET")
    artifact = engine.folder(job.id) / "artifacts" / "report.html"
    artifact.unlink()
    artifact.symlink_to(secret)
    answer = client_of(engine).get(f"/v1/jobs/{job.id}/artifacts/report.html")
    assert answer.status_code in (404, 410) and "SECRET" not in answer.text
    upload = client_of(engine)
    upload_id = upload.post("/v1/uploads").json()["id"]
    path = engine.home.path / "uploads" / upload_id
    path.unlink()
    path.symlink_to(secret)
    assert upload.put(f"/v1/uploads/{upload_id}", params={"offset": 0}, content=GZIP).status_code != 200
    assert secret.read_text() == "SECRET"


def test_parallel_creates_with_one_key_make_one_job(engine: Engine) -> None:
    http = client_of(engine)
    ids: list[str] = []

    def create() -> None:
        answer = http.post("/v1/jobs", data={"model": "slow"}, files=form(), headers={"Idempotency-Key": "k"})
        ids.append(answer.json()["id"])

    threads = [threading.Thread(target=create) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 6 and len({*ids}) == 1
    assert leftovers(engine) == []
