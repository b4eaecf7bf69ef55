"""Every route of the application refuses requests without a token and from other sites (T1, T2)."""

from __future__ import annotations

import re
import time

import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute
from starlette.testclient import TestClient

from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http import auth, guard
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.settings import allowed_hosts
from tests.server.http.conftest import TOKEN, client_of

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
EVIL = (
    {"Host": "evil.example"},
    {"Host": "evil.example:5553"},
    {"Host": "0.0.0.0:5553"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": ""},
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:6006"},
    {"Origin": "http://127.0.0.1:5553.evil.example"},
    {"Origin": "null"},
)


def paths(app: FastAPI) -> list[str]:
    """A path for every route, those that are not published included."""

    def each(routes: list[BaseRoute]) -> list[str]:
        collected = []
        for route in routes:
            inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
            collected += each(inner) if inner else [route.path]  # type: ignore[attr-defined]
        return collected

    return sorted({re.sub(r"\{[^}]+\}", "x", path) for path in each(app.routes)})


def test_the_routes_are_found(look: TestClient) -> None:
    routes = paths(look.app)
    assert len(routes) >= 25
    assert {*routes} >= {"/", "/training", "/v1/jobs/x/events", "/tensorboard/x", "/openapi.json", "/healthz"}
    published = {re.sub(r"\{[^}]+\}", "x", path) for path in look.get("/openapi.json").json()["paths"]}
    assert published <= {*routes}


@pytest.mark.parametrize("headers", EVIL, ids=lambda headers: ":".join(*headers.items()))
def test_t02_strange_host_or_origin_is_refused_everywhere(look: TestClient, headers: dict[str, str]) -> None:
    for path in paths(look.app):
        for method in METHODS:
            answer = look.request(method, path, headers=headers)
            refused = 405 if method not in guard.METHODS else 403
            assert answer.status_code == refused, (method, path)
            assert method == "HEAD" or answer.json()["code"] in ("forbidden_origin", "method_not_allowed")


def test_t02_cross_site_requests_may_only_look(look: TestClient) -> None:
    cross = {"Sec-Fetch-Site": "cross-site"}
    for path in paths(look.app):
        for method in ("POST", "PUT", "DELETE"):
            assert look.request(method, path, headers=cross).status_code == 403, (method, path)
    assert look.get("/status", headers=cross).status_code == 200


def test_t02_our_own_page_and_curl_pass(look: TestClient) -> None:
    assert look.get("/status", headers={"Origin": "http://127.0.0.1:5553"}).status_code == 200
    assert look.get("/status", headers={"Host": "LOCALHOST:80", "Origin": "http://localhost"}).status_code == 200
    assert look.get("/status", headers={"Host": "[::1]:5553", "Origin": "http://[::1]:5553"}).status_code == 200
    runpod = allowed_hosts("0.0.0.0", 5553, ["My-Box.lan"], {"RUNPOD_POD_ID": "7fd05eukwj0oza"})
    assert runpod >= {"7fd05eukwj0oza-5553.proxy.runpod.net", "my-box.lan", "localhost"}
    assert "0.0.0.0" not in runpod


def test_t02_two_hosts_are_none(look: TestClient) -> None:
    from starlette.datastructures import Headers

    both = Headers(raw=[(b"host", b"127.0.0.1"), (b"host", b"evil.example")])
    with pytest.raises(Problem, match="Host"):
        guard.require_host(both, frozenset({"127.0.0.1"}))


def test_t01_every_route_wants_the_token(shared: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "MAX_DELAY_S", 0.0)
    http = client_of(shared, token=TOKEN)
    wrong = [{}, {"Authorization": f"Basic {TOKEN}"}, {"Authorization": TOKEN}, {"Cookie": f"token={TOKEN}"}]
    for path in paths(http.app):
        for headers in wrong[: 1 if path in guard.OPEN_PATHS else None]:
            answer = http.get(path, headers=headers)
            assert answer.status_code == (200 if path in guard.OPEN_PATHS else 401), path
        assert http.get(path, params={"token": TOKEN}).status_code == answer.status_code  # never in an address
    right = {"Authorization": f"bearer {TOKEN}"}
    assert http.get("/status", headers=right).status_code == 200
    assert http.get("/openapi.json", headers=right).status_code == 200
    assert http.get("/nothing").status_code == 401  # which paths exist is nobody's business


def test_t01_wrong_tokens_become_slow_and_right_ones_do_not(shared: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    http = client_of(shared, token=TOKEN)
    started = time.monotonic()
    for _ in range(8):
        assert http.get("/status", headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert time.monotonic() - started > 0.1 + 0.2 + 0.3
    monkeypatch.setattr(auth.Throttle, "failed", lambda *_: 600.0)
    assert http.get("/status", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    monkeypatch.undo()
    throttle = auth.Throttle()
    assert max(throttle.failed("peer") for _ in range(100)) == auth.MAX_DELAY_S
    for number in range(2 * auth.PEERS):
        throttle.failed(str(number))
    assert len(throttle._failures) == auth.PEERS


def test_signed_paths_expire_and_open_nothing_else() -> None:
    signed = auth.signature(TOKEN, "tensorboard", now=1000)
    assert auth.is_signed(TOKEN, "tensorboard", signed, now=1001)
    assert not auth.is_signed(TOKEN, "tensorboard", signed, now=1000 + auth.LINK_S)
    assert not auth.is_signed(TOKEN, "tensorboard", signed, now=-100_000)  # a clock that was set back
    assert not auth.is_signed(TOKEN, "artifacts", signed, now=1001)
    assert not auth.is_signed(TOKEN + "x", "tensorboard", signed, now=1001)
    later = signed.replace("4600", "9999999")
    for forged in (later, "", ".", signed[:-1], "x." + signed, signed.replace(".", ""), "９." + signed):
        assert not auth.is_signed(TOKEN, "tensorboard", forged, now=1001)
    assert TOKEN not in signed


def test_every_answer_has_the_security_headers(look: TestClient) -> None:
    answers = [look.get(path) for path in ("/", "/status", "/nothing", "/v1/jobs", "/healthz")]
    answers += [look.get("/", headers={"Host": "evil.example"}), look.post("/training")]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert not [name for name in answer.headers if name.startswith("access-control-") or name == "set-cookie"]
