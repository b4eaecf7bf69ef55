"""Resumable uploads: how many one client may have, when they expire, and how they are listed and deleted."""

from __future__ import annotations

import functools
import threading
import time
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http import uploads
from tests.server.http.conftest import GZIP, URL, client_of
from tests.server.http.test_wire import live


def other(http: TestClient, address: str) -> TestClient:
    """A client of the same application at another address."""
    return TestClient(http.app, base_url=URL, client=(address, 50_000))


def begin(http: TestClient) -> str:
    answer = http.post("/v1/uploads")
    assert answer.status_code == 201
    return answer.json()["id"]


def age(http: TestClient, upload: str, seconds: float) -> None:
    http.app.state.context.uploads.get(upload).used = time.monotonic() - seconds


def test_t24_one_client_cannot_take_all_places(engine: Engine) -> None:
    mine = client_of(engine, uploads=4, uploads_of_client=2)
    kept = [begin(mine) for _ in range(2)]
    refused = mine.post("/v1/uploads")
    assert (refused.status_code, refused.json()["code"]) == (503, "unavailable")
    assert "you have 2 open uploads" in refused.json()["detail"]
    begin(other(mine, "10.0.0.2"))
    begin(other(mine, "10.0.0.3"))
    full = other(mine, "10.0.0.4").post("/v1/uploads")
    assert full.status_code == 503 and "4 uploads are open" in full.json()["detail"]
    assert mine.delete(f"/v1/uploads/{kept[0]}").status_code == 204  # as the answer says
    begin(mine)


def test_t24_the_limit_holds_for_parallel_requests(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    new_upload = engine.new_upload

    def slow() -> Path:
        time.sleep(0.05)
        return new_upload()

    monkeypatch.setattr(engine, "new_upload", slow)
    made: list[int] = []
    with live(engine, uploads_of_client=2) as port:
        ask = functools.partial(httpx.post, f"http://127.0.0.1:{port}/v1/uploads", trust_env=False)
        threads = [threading.Thread(target=lambda: made.append(ask().status_code)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(made) == [201, 201, 503, 503, 503]


def test_an_untouched_upload_expires_in_minutes_and_one_with_bytes_does_not(http: TestClient, engine: Engine) -> None:
    empty, begun, old = begin(http), begin(http), begin(http)
    for upload in (begun, old):
        assert http.put(f"/v1/uploads/{upload}", params={"offset": 0}, content=GZIP).status_code == 200
    for upload in (empty, begun):
        age(http, upload, 601)
    age(http, old, uploads.IDLE_S + 1)
    listed = http.get("/v1/uploads").json()
    assert listed == {"data": [{"id": begun, "received": len(GZIP), "size": None}], "next": None}
    assert http.get(f"/v1/uploads/{empty}").json()["code"] == "not_found"
    assert [path.name for path in (engine.home.path / "uploads").iterdir()] == [begun]
