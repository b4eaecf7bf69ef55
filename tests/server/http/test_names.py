"""Named tokens: each name sees and changes what is its own, as its role allows, within its quota (P17)."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from asr_lightning.durable import faults
from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.quota import Quota
from asr_lightning.server.http import audit, callers, guard, tensorboard, visits
from asr_lightning.server.http.app import ROUTES
from asr_lightning.server.http.tokens import Role, TokenFile, TokenFileError
from tests.server import driver
from tests.server.http.conftest import GZIP, TOKEN, client_of, form
from tests.server.http.test_wire import live

EVERY = [route for module in ROUTES for route in module.router.routes]
ALL_GET = sorted({route.path for route in EVERY if "{" not in route.path and "GET" in route.methods})
HEAD = {"Content-Type": "multipart/form-data; boundary=cut"}


def client(engine: Engine, name: str, role: Role = Role.USER, quota: Quota | None = None, **changes: Any) -> TestClient:
    """A client with a new token of ``name``; each has an application of its own, as after a restart."""
    token = TokenFile(engine.home.path).add(name, role, quota=quota)
    http = client_of(engine, **changes)
    http.headers["Authorization"] = f"Bearer {token}"
    return http


def same_app(http: TestClient, engine: Engine, name: str, role: Role = Role.USER) -> TestClient:
    """A client with a new token of ``name`` for the application of ``http``."""
    token = TokenFile(engine.home.path).add(name, role)
    other = TestClient(http.app, base_url=http.base_url)
    other.headers["Authorization"] = f"Bearer {token}"
    return other


def submit(http: TestClient, model: str = "quick", data: bytes = GZIP, **headers: str) -> httpx.Response:
    return http.post("/v1/jobs", data={"model": model}, files=form(data), headers=headers)


def routes() -> list[tuple[str, str]]:
    """Method and path of each route that takes an id, the hidden ones included."""
    return sorted({(method, route.path) for route in EVERY for method in route.methods if "_id}" in route.path})


def test_p17_no_route_shows_or_changes_what_belongs_to_another_name(engine: Engine) -> None:
    anna = client(engine, "anna")
    job = submit(anna).json()["id"]
    driver.reach(engine, engine.job(job), "succeeded")
    upload = anna.post("/v1/uploads").json()["id"]
    ben = same_app(anna, engine, "ben")
    assert len(routes()) >= 17
    for method, path in routes():
        answers = []
        for ids in ({"{job_id}": job, "{upload_id}": upload}, {"{job_id}": "nobody", "{upload_id}": "nobody"}):
            address = path.replace("{name}", "model.tar.gz")
            for name, value in ids.items():
                address = address.replace(name, value)
            answers.append(ben.request(method, address, params={"offset": 0}, content=b""))
        assert answers[0].status_code == answers[1].status_code == 404, (method, path)
        assert answers[0].content == answers[1].content, (method, path)
    for path in (*ALL_GET, "/v1/uploads"):
        shown = ben.get(path).text
        assert job not in shown and upload not in shown, path
    for path in ("/status", "/download_model"):
        assert ben.get(path, params={"training_id": job}).status_code == 404
    assert ben.get("/v1/jobs").json() == {"data": [], "next": None}
    assert ben.get("/v1/jobs", params={"after": job}).json()["data"] == []
    assert ben.get("/status").json()["training_id"] is None
    assert ben.post("/v1/jobs", json={"model": "quick", "upload": upload}).status_code == 404
    assert engine.job(job).state == "succeeded" and anna.get(f"/v1/uploads/{upload}").status_code == 200
    assert anna.get(f"/v1/jobs/{job}/artifacts/model.tar.gz").status_code == 200
    assert anna.get("/status").json()["training_id"] == job
    assert [shown["owner"] for shown in anna.get("/v1/jobs").json()["data"]] == ["anna"]
    stream = anna.get(f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"})
    assert "event: end" in stream.text


def test_p17_no_page_begins_after_a_job_of_another_name(engine: Engine) -> None:
    anna = client(engine, "anna")
    ben = same_app(anna, engine, "ben")
    older = submit(ben).json()["id"]
    driver.reach(engine, engine.job(older), "succeeded")
    job = submit(anna).json()["id"]
    driver.reach(engine, engine.job(job), "succeeded")
    newer = submit(ben).json()["id"]
    pages = [ben.get("/v1/jobs", params={"after": after}).json() for after in (job, "nobody")]
    assert pages[0] == pages[1] == {"data": [], "next": None}
    assert [shown["id"] for shown in ben.get("/v1/jobs", params={"after": newer}).json()["data"]] == [older]
    driver.reach(engine, engine.job(newer), "succeeded")


def test_p17_jobs_of_others_are_not_named_when_the_server_is_busy(tmp_path: Path) -> None:
    with driver.running(tmp_path / "home", queue_cap=1) as engine:
        anna = client(engine, "anna")
        ben = same_app(anna, engine, "ben")
        job = submit(anna, "slow").json()["id"]
        for answer in (
            submit(ben),
            submit(ben, **{"Idempotency-Key": "k"}),
            ben.post("/training", data={"base_model_name": "quick"}, files=form()),
        ):
            assert (answer.status_code, answer.json()["code"]) == (409, "busy")
            assert answer.json()["training_id"] is None and job not in answer.text
        own = anna.post("/training", data={"base_model_name": "quick"}, files=form())
        assert own.json()["training_id"] == job


def test_two_names_may_use_the_same_key(engine: Engine) -> None:
    anna = client(engine, "anna")
    ben = same_app(anna, engine, "ben")
    key = {"Idempotency-Key": "monday"}
    jobs = [submit(http, "slow", data, **key) for http in (anna, ben) for data in (GZIP, GZIP)]
    ids = [answer.json()["id"] for answer in jobs]
    assert ids[0] == ids[1] != ids[2] == ids[3]
    assert submit(ben, "slow", GZIP + b"other", **key).json()["code"] == "idempotency_conflict"


def test_an_admin_sees_all_and_the_operator_is_one(engine: Engine) -> None:
    anna = client(engine, "anna", token=TOKEN)
    job = submit(anna, "slow").json()["id"]
    unnamed = driver.submit(engine, "slow").id
    admin = same_app(anna, engine, "chief", Role.ADMIN)
    operator = TestClient(anna.app, base_url=anna.base_url, headers={"Authorization": f"Bearer {TOKEN}"})
    for http in (admin, operator):
        assert {shown["id"]: shown["owner"] for shown in http.get("/v1/jobs").json()["data"]} == {
            job: "anna", unnamed: None,
        }  # fmt: skip
        assert http.get("/metrics").status_code == 200
    assert anna.get(f"/v1/jobs/{unnamed}").status_code == 404  # a job of an earlier version belongs to no name
    assert admin.post(f"/v1/jobs/{job}/cancel").status_code == 202
    driver.reach(engine, engine.job(job), "cancelled")
    assert operator.delete(f"/v1/jobs/{job}").status_code == 200
    assert submit(operator, "slow").json()["owner"] is None and submit(admin, "slow").json()["owner"] == "chief"


def test_a_viewer_sees_states_and_neither_takes_nor_changes_anything(engine: Engine) -> None:
    anna = client(engine, "anna")
    job = submit(anna).json()["id"]
    done = driver.reach(engine, engine.job(job), "succeeded")
    viewer = same_app(anna, engine, "screen", Role.VIEWER)
    may = {
        "/", "/healthz", "/readyz", "/version", "/metrics", "/status", "/v1/models", "/v1/jobs", "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/events",
    }  # fmt: skip
    seen = set()
    for route in EVERY:
        for method in route.methods:
            address = route.path.replace("{job_id}", job).replace("{name}", "model.tar.gz")
            answer = viewer.request(method, address, params={"training_id": job})
            if answer.status_code == 200:
                seen.add(route.path)
            else:
                assert answer.status_code == 403, (method, route.path)
                assert method == "HEAD" or answer.json()["code"] == "forbidden", (method, route.path)
    assert seen == may
    assert engine.job(job) == done
    (shown,) = viewer.get("/v1/jobs").json()["data"]
    assert shown["owner"] == "anna" and shown["dataset"]["utterances"] == 1 and shown["links"]["tensorboard"] is None
    assert shown["dataset"]["issues"] is None  # they name recordings, and quote transcripts
    assert anna.get(f"/v1/jobs/{job}").json()["dataset"]["issues"] == []
    assert anna.get("/metrics").json()["code"] == "forbidden"  # how many jobs others have


def test_the_predecessors_routes_take_the_token_of_a_user(engine: Engine) -> None:
    anna = client(engine, "anna")
    job = anna.post("/training", data={"base_model_name": "quick"}, files=form()).json()["training_id"]
    driver.reach(engine, engine.job(job), "succeeded")
    assert anna.get("/status").json()["progress"] == "finished"
    assert anna.get("/download_model", params={"training_id": job}).status_code == 200
    assert engine.job(job).owner == "anna"


def test_tokens_change_while_the_server_runs(engine: Engine) -> None:
    http = client_of(engine)
    assert http.get("/status").status_code == 200  # on loopback, without a token
    tokens = TokenFile(engine.home.path)
    first = tokens.add("anna", Role.USER)
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600 and first not in tokens.path.read_text()
    assert http.get("/status").json()["code"] == "unauthorized"  # now there is somebody to keep out
    ask = lambda token: http.get("/status", headers={"Authorization": f"Bearer {token}"})  # noqa: E731
    assert ask(first).status_code == 200
    with pytest.raises(ValueError, match="serve token revoke anna"):
        tokens.add("anna", Role.USER)
    tokens.revoke("anna")
    assert (ask(first).status_code, "was revoked" in ask(first).json()["detail"]) == (401, True)
    second = tokens.add("anna", Role.USER)
    assert second != first and (ask(second).status_code, ask(first).status_code) == (200, 401)
    tokens.add("brief", Role.USER, (datetime.now(UTC) - timedelta(seconds=1)).isoformat())
    (brief,) = [token for token in tokens.all() if token.name == "brief"]
    assert brief.refusal() == "has expired"
    tokens.path.unlink()
    assert http.get("/status").status_code == 401  # a file that was lost opens nothing
    assert client_of(engine, no_auth=True).get("/status").status_code == 200


def test_with_names_every_route_wants_a_token(engine: Engine) -> None:
    http = client_of(engine)
    TokenFile(engine.home.path).add("anna", Role.USER)
    for route in EVERY:
        for method in route.methods - {"HEAD"}:
            wanted = 200 if route.path in guard.OPEN_PATHS else 401
            assert http.request(method, route.path).status_code == wanted, (method, route.path)
    assert http.get("/openapi.json").status_code == 401


def test_an_expired_token_says_so(engine: Engine) -> None:
    tokens = TokenFile(engine.home.path)
    token = tokens.add("anna", Role.USER, (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat())
    http = client_of(engine)
    http.headers["Authorization"] = f"Bearer {token}"
    assert http.get("/status").status_code == 200
    answer = driver.wait(lambda: (a := http.get("/status")).status_code == 401 and a, "the token to expire", 5)
    assert "this" not in answer.json()["detail"][:4] and "has expired" in answer.json()["detail"]


def test_a_revoked_token_ends_its_open_streams(engine: Engine) -> None:
    tokens = TokenFile(engine.home.path)
    bearer = {"Authorization": f"Bearer {tokens.add('anna', Role.USER)}", "Accept": "text/event-stream"}
    job = driver.reach(engine, driver.submit(engine, "slow", owner="anna"), "running").id
    with live(engine, ping_s=0.02) as port, httpx.Client(trust_env=False, headers=bearer, timeout=10) as http:
        for path, first in (("events", "retry: 2000"), ("logs?follow=1", None)):
            if path != "events":
                (engine.folder(job) / "logs" / "trainer.log").write_text("a line\n")
                http.headers["Authorization"] = f"Bearer {tokens.add('anna', Role.USER)}"
            with http.stream("GET", f"http://127.0.0.1:{port}/v1/jobs/{job}/{path}") as answer:
                lines = answer.iter_lines()
                assert next(lines) == (first or "a line")
                tokens.revoke("anna")
                assert "event: end" not in [*lines]  # it ends, and the job does not
    assert engine.job(job).state == "running"


@pytest.mark.parametrize("text", ["", "{", '{"version": 1}', '{"version": 2, "tokens": []}', "[]"])
def test_a_damaged_file_of_tokens_lets_nobody_in_and_is_not_overwritten(engine: Engine, text: str, caplog) -> None:
    anna = client(engine, "anna", token=TOKEN)
    path = engine.home.path / "tokens.json"
    path.write_text(text)
    assert anna.get("/status").status_code == 401
    assert anna.get("/status", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert str(path) in caplog.text
    for change in (lambda: TokenFile(path.parent).add("ben", Role.USER), lambda: TokenFile(path.parent).revoke("anna")):
        with pytest.raises(TokenFileError, match="Restore it from a backup"):
            change()
    assert path.read_text() == text


def test_one_damaged_entry_harms_no_other(engine: Engine) -> None:
    anna = client(engine, "anna")
    path = engine.home.path / "tokens.json"
    document = json.loads(path.read_text())
    good = document["tokens"][0]
    for wrong in ({"role": "root"}, {"sha256": "x"}, {"expires_at": "soon"}, {"expires_at": "2027-01-01"},
                  {"max_jobs": "3"}, {"name": "../x"}):  # fmt: skip
        path.write_text(json.dumps({"version": 1, "tokens": [{**good, "name": "ben", "later": 1, **wrong}, good]}))
        assert anna.get("/status").status_code == 200, wrong
        assert [token.name for token in anna.app.state.context.callers.tokens._tokens] == ["anna"], wrong
        with pytest.raises(TokenFileError, match="entry 1 is damaged"):
            TokenFile(path.parent).revoke("anna")


@pytest.mark.parametrize("name", ["", "-x", "a/b", "../a", "a b", "é", "x" * 65, "operator", "Anyone", "a~b", ".a"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot be one"):
        TokenFile(tmp_path).add(name, Role.USER)


def test_quota_of_jobs_and_queue_places(engine: Engine) -> None:
    anna = client(engine, "anna", quota=Quota(max_jobs=2, max_queued=1))
    first = submit(anna, "slow").json()["id"]
    full = submit(anna)
    assert (full.status_code, full.json()["code"], full.json()["quota"]) == (429, "quota_exceeded", "max_queued")
    assert (full.json()["limit"], full.json()["used"], full.headers["retry-after"]) == (1, 1, "30")
    of_ben = submit(same_app(anna, engine, "ben"), "slow")  # a quota is of one name
    engine.cancel(of_ben.json()["id"])
    anna.post(f"/v1/jobs/{first}/cancel")
    driver.reach(engine, engine.job(first), "cancelled")
    driver.reach(engine, engine.job(submit(anna).json()["id"]), "succeeded")
    full = submit(anna)
    assert (full.status_code, full.json()["quota"], "retry-after" in full.headers) == (429, "max_jobs", False)
    anna.delete(f"/v1/jobs/{first}")
    assert submit(anna).status_code == 202
    assert not list(engine.home.uploads.iterdir())


def test_a_resumed_job_needs_a_place_too(engine: Engine) -> None:
    anna = client(engine, "anna", quota=Quota(max_queued=1))
    first = submit(anna, "slow").json()["id"]
    anna.post(f"/v1/jobs/{first}/cancel")
    driver.reach(engine, engine.job(first), "cancelled")
    submit(anna, "slow")
    answer = anna.post(f"/v1/jobs/{first}/resume")
    assert (answer.status_code, answer.json()["quota"]) == (429, "max_queued")
    assert engine.job(first).state == "cancelled"


def test_quota_of_bytes(engine: Engine) -> None:
    data = GZIP.ljust(60_000, b"x")
    anna = client(engine, "anna", quota=Quota(max_bytes=150_000))
    first = engine.job(submit(anna, data=data).json()["id"])
    driver.reach(engine, first, "succeeded")
    used = engine.usage.bytes_of("anna")
    assert 60_000 < used < 130_000  # the archive is gone, its data set and the model are there
    upload = anna.post("/v1/uploads", json={"size": 60_000}).json()["id"]
    for answer in (
        anna.post("/v1/uploads", json={"size": 60_000}),  # announced bytes count before they arrive
        submit(anna, data=data),
        anna.post("/training", data={"base_model_name": "quick"}, files=form(data)),
    ):
        assert (answer.status_code, answer.json()["code"], answer.json()["limit"]) == (507, "quota_bytes", 150_000)
    anna.delete(f"/v1/uploads/{upload}")
    open_ended = anna.post("/v1/uploads").json()["id"]
    answer = anna.put(f"/v1/uploads/{open_ended}", params={"offset": 0}, content=GZIP.ljust(150_000))
    assert answer.json()["code"] == "quota_bytes"
    assert anna.get(f"/v1/uploads/{open_ended}").json()["received"] == 0
    anna.delete(f"/v1/jobs/{first.id}")
    assert engine.usage.bytes_of("anna") == 0
    made = [submit(anna, data=data.ljust(90_000), **{"Idempotency-Key": "k"}).json()["id"] for _ in range(2)]
    assert made[0] == made[1]  # a retry is no second job


def test_a_body_without_a_length_is_within_the_quota_too(engine: Engine) -> None:
    anna = client(engine, "anna", quota=Quota(max_bytes=5000))
    answer = anna.post(
        "/v1/jobs",
        headers={"Content-Type": "multipart/form-data; boundary=cut"},
        content=iter([multipart(b"x" * 9000)]),
    )
    assert (answer.status_code, answer.json()["code"]) == (507, "quota_bytes")
    assert engine.jobs() == [] and not list(engine.home.uploads.iterdir())


def test_uploads_that_begin_at_the_same_time_share_the_quota(engine: Engine) -> None:
    anna = client(engine, "anna", quota=Quota(max_bytes=5000))

    async def begin() -> list[int]:
        transport = httpx.ASGITransport(app=anna.app)
        async with httpx.AsyncClient(transport=transport, base_url=str(anna.base_url), headers=anna.headers) as http:
            answers = await asyncio.gather(*(http.post("/v1/uploads", json={"size": 2000}) for _ in range(5)))
        return sorted(answer.status_code for answer in answers)

    assert asyncio.run(begin()) == [201, 201, 507, 507, 507]


def test_an_upload_without_a_length_is_within_the_quota_too(engine: Engine) -> None:
    anna = client(engine, "anna", quota=Quota(max_bytes=5000))
    for offset, pieces, status in ((0, [GZIP.ljust(3000)], 200), (3000, [b"x" * 2500], 507)):
        upload = anna.get("/v1/uploads").json()["data"][0]["id"] if offset else anna.post("/v1/uploads").json()["id"]
        answer = anna.put(f"/v1/uploads/{upload}", params={"offset": offset}, content=iter(pieces))
        assert answer.status_code == status
    assert (answer.json()["code"], answer.json()["limit"], answer.json()["used"]) == ("quota_bytes", 5000, 3000)
    assert sum(path.stat().st_size for path in engine.home.uploads.iterdir()) == 3000


def multipart(data: bytes) -> bytes:
    part = b"--cut\r\nContent-Disposition: form-data; name="
    return (
        part + b'"model"\r\n\r\nquick\r\n' + part + b'"data"; filename="x"\r\n\r\n' + GZIP + data + b"\r\n--cut--\r\n"
    )


def test_owners_survive_the_loss_of_the_store(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with driver.running(home) as engine:
        anna = client(engine, "anna")
        job = submit(anna, **{"Idempotency-Key": "k"}).json()["id"]
        driver.reach(engine, engine.job(job), "succeeded")
        engine.stop()
        for path in home.glob("state.db*"):
            path.unlink()
        engine.__init__(driver.settings(home))  # type: ignore[misc]
        engine.start()
        again = TestClient(client_of(engine).app, base_url=anna.base_url, headers=anna.headers)
        assert again.get(f"/v1/jobs/{job}").json()["owner"] == "anna"
        assert submit(again, **{"Idempotency-Key": "k"}).json()["id"] == job
        assert same_app(again, engine, "ben").get(f"/v1/jobs/{job}").status_code == 404


def test_a_store_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    with driver.running(home) as engine:
        old = driver.reach(engine, driver.submit(engine), "succeeded")
        engine.stop()
        with closing(sqlite3.connect(engine.home.store)) as connection:
            connection.execute("ALTER TABLE job DROP COLUMN owner")
        request = home / "jobs" / old.id / "request.json"
        request.write_text(json.dumps({k: v for k, v in json.loads(request.read_text()).items() if k != "owner"}))
        engine.__init__(driver.settings(home))  # type: ignore[misc]
        engine.start()
        assert engine.job(old.id) == old
        assert engine.submit(JobSpec("quick"), filled(engine), owner="anna")[0].owner == "anna"


def filled(engine: Engine) -> Path:
    path = engine.new_upload()
    path.write_bytes(GZIP)
    return path


def test_signed_paths_are_of_one_name(engine: Engine) -> None:
    anna = client(engine, "anna", token=TOKEN)
    same_app(anna, engine, "ben")
    who = anna.app.state.context.callers
    caller = who.by_header(anna.headers["Authorization"])
    signed = callers.signature(caller, tensorboard.PURPOSE)
    assert signed is not None and who.by_signature(signed, tensorboard.PURPOSE) == caller
    assert who.by_signature(signed.replace("~anna", "~ben"), tensorboard.PURPOSE) is None
    assert who.by_signature(signed.replace("~anna", ""), tensorboard.PURPOSE) is None  # not the operator's either
    assert who.by_signature(signed, "artifacts") is None
    who.tokens.revoke("anna")
    assert who.by_signature(signed, tensorboard.PURPOSE) is None


def lines(engine: Engine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in audit.AuditLog(engine.home.path).lines()]


def test_the_audit_log_says_who_did_what(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    anna = client(engine, "anna", token=TOKEN)
    job = submit(anna, "slow").json()["id"]
    ben = same_app(anna, engine, "ben")
    viewer = same_app(anna, engine, "screen", Role.VIEWER)
    ben.get(f"/v1/jobs/{job}")
    viewer.delete(f"/v1/jobs/{job}")
    for _ in range(3):
        anna.get("/v1/jobs")  # polls are not recorded
    anna.post(f"/v1/jobs/{job}/cancel", headers={"X-Forwarded-For": "10.1.1.1, 203.0.113.9"})
    driver.reach(engine, engine.job(job), "cancelled")
    anna.get(f"/v1/jobs/{job}/artifacts/model.tar.gz")
    TokenFile(engine.home.path).revoke("ben")
    ben.get("/status")
    anna.get(f"/{TOKEN}/{job}", headers={"Authorization": "Bearer wrong"})
    anna.delete(f"/v1/jobs/{job}")
    found = [
        (line["who"], line.get("role"), line["what"], line.get("subject"), line["result"]) for line in lines(engine)
    ]
    assert found == [
        ("anna", "user", "POST /v1/jobs", job, 202),
        ("ben", "user", "GET /v1/jobs/{job_id}", job, 404),
        ("screen", "viewer", "DELETE /v1/jobs/{job_id}", None, 403),
        ("anna", "user", "POST /v1/jobs/{job_id}/cancel", job, 202),
        ("anna", "user", "GET /v1/jobs/{job_id}/artifacts/{name}", job, 409),
        ("ben", None, "GET /status", None, 401),
        ("nobody", None, "GET (no route)", None, 401),
        ("anna", "user", "DELETE /v1/jobs/{job_id}", job, 200),
    ]
    text = (engine.home.path / "audit.log").read_text()
    assert TOKEN not in text and "wrong" not in text and anna.headers["Authorization"].split()[1] not in text
    assert stat.S_IMODE((engine.home.path / "audit.log").stat().st_mode) == 0o600
    assert {line["from"] for line in lines(engine)} == {"testclient"}
    assert audit.AuditLog(engine.home.path).verify().wrong is None


def test_a_proxy_on_this_machine_may_say_who_asked_and_others_may_not(engine: Engine) -> None:
    scope = {"type": "http", "headers": [(b"x-forwarded-for", b"10.1.1.1, 203.0.113.9")], "client": ("127.0.0.1", 1)}
    assert visits._forwarded(scope) == "203.0.113.9"
    assert visits._forwarded({**scope, "client": ("198.51.100.1", 1)}) is None
    assert visits._forwarded({**scope, "headers": [(b"x-forwarded-for", b"<script>")]}) is None


def test_strangers_cannot_fill_the_audit_log(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "REFUSALS", 5)
    http = client_of(engine, token=TOKEN)
    for _ in range(12):
        http.get("/status")
    assert len(lines(engine)) == 5
    screen = same_app(http, engine, "screen", Role.VIEWER)
    for _ in range(6):
        screen.delete("/v1/jobs/x")
    assert len(lines(engine)) == 10
    submit(http_of(http), "slow")
    assert (lines(engine)[-1]["who"], lines(engine)[-1]["not_recorded"]) == ("operator", 1)


def http_of(http: TestClient) -> TestClient:
    return TestClient(http.app, base_url=http.base_url, headers={"Authorization": f"Bearer {TOKEN}"})


def test_deleting_works_though_the_audit_log_cannot_be_written(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    http = client_of(engine)
    job = driver.reach(engine, driver.submit(engine), "succeeded").id
    faults.forget()
    monkeypatch.setenv("ASR_FAULT", "audit.written:enospc")
    assert http.delete(f"/v1/jobs/{job}").status_code == 200
    assert "the audit log cannot be written" in caplog.text and lines(engine) == []
    monkeypatch.delenv("ASR_FAULT")
    http.delete(f"/v1/jobs/{job}")
    (line,) = lines(engine)
    assert (line["who"], line["seq"], line["not_recorded"]) == ("anyone", 1, 1)


def test_names_have_boards_of_their_own(engine: Engine, tmp_path: Path) -> None:
    board = tensorboard.TensorBoard(engine.home.path / "jobs", tmp_path / "log")
    anna = driver.submit(engine, "slow", owner="anna").id
    driver.submit(engine, "slow", owner="ben")

    async def shown(name: str) -> tuple[tensorboard.TensorBoard, list[str]]:
        jobs = [job.id for job in engine.store.jobs(owner=name)]
        mine = await board.of(name, jobs)
        return mine, sorted(path.name for path in mine.logdir.iterdir() if path.is_dir())

    async def all_of_it() -> None:
        mine, runs = await shown("anna")
        assert runs == [anna] and mine is not board and mine.secret != board.secret
        second = driver.submit(engine, "slow", owner="anna").id
        again, runs = await shown("anna")
        assert again is mine and runs == sorted([anna, second])
        again = await board.of("anna", [second])
        assert [path.name for path in again.logdir.iterdir()] == [second]
        for number in range(tensorboard.NAMES):
            await board.of(f"name{number}", [])
        assert (await board.of("anna", [])) is not mine  # only a few run at a time
        board.stop()

    import anyio

    anyio.run(all_of_it)
