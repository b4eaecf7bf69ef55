"""The v1 API: jobs, events, logs, files, uploads, inspections of data, and routes about the server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from asr_lightning.job_folder.failure import Failure
from asr_lightning.job_folder.intake_report import IntakeReport
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http.problems import CODES
from tests.server import driver
from tests.server.http.conftest import GZIP, client_of, form

JOB_KEYS = {
    "id", "object", "state", "progress", "created_at", "started_at", "ended_at", "base_model", "base_revision",
    "language", "params", "owner", "dataset", "metrics", "attempt", "resumed_from", "error", "damage", "links",
}  # fmt: skip
PROGRESS_KEYS = {"phase", "message", "epoch", "epochs", "step", "steps", "fraction", "eta_s"}


def test_a_job_by_form(http: TestClient, engine: Engine) -> None:
    fields = {"model": "quick", "epochs": "2", "seed": "7", "language": "DE"}
    answer = http.post("/v1/jobs", data=fields, files=form())
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job.keys() == JOB_KEYS
    assert job["progress"].keys() == PROGRESS_KEYS
    assert (job["params"], job["language"]) == ({"epochs": 2, "seed": 7}, "de")
    driver.reach(engine, engine.job(job["id"]), "succeeded")
    done = http.get(answer.headers["location"]).json()
    assert done["progress"]["fraction"] == 1.0
    assert done["metrics"]["after"] == 0.25
    for name in ("events", "logs", "report", "artifacts"):
        assert http.get(done["links"][name]).status_code == 200


def test_listing_is_paged_newest_first(http: TestClient, engine: Engine) -> None:
    ids = [driver.submit(engine, "slow").id for _ in range(5)][::-1]
    first = http.get("/v1/jobs", params={"limit": 2}).json()
    assert [job["id"] for job in first["data"]] == ids[:2]
    assert first["next"] == ids[1]
    rest = http.get("/v1/jobs", params={"limit": 3, "after": first["next"]}).json()
    assert [job["id"] for job in rest["data"]] == ids[2:]
    assert http.get("/v1/jobs", params={"state": "succeeded"}).json() == {"data": [], "next": None}
    assert http.get("/v1/jobs", params={"state": "lost"}).json()["code"] == "invalid_parameter"
    assert http.get("/v1/jobs", params={"limit": 0}).json()["param"] == "limit"


def test_cancel_resume_delete(http: TestClient, engine: Engine) -> None:
    job = driver.submit(engine, "slow")
    path = f"/v1/jobs/{job.id}"
    driver.reach(engine, job, "running")
    early = http.delete(path)
    assert (early.status_code, early.json()["code"], early.json()["training_id"]) == (409, "busy", job.id)
    assert http.post(f"{path}/resume").json()["code"] == "busy"
    assert http.post(f"{path}/cancel").status_code == 202
    driver.reach(engine, job, "cancelled")
    again = http.post(f"{path}/cancel")
    assert (again.status_code, again.json()["state"]) == (200, "cancelled")
    resumed = http.post(f"{path}/resume")
    assert (resumed.status_code, resumed.json()["state"]) == (202, "queued")
    http.post(f"{path}/cancel")
    driver.reach(engine, job, "cancelled")
    receipt = http.delete(path).json()
    assert receipt.keys() == {
        "id", "deleted", "bytes", "created_at", "ended_at", "deleted_at", "artifacts", "dataset_sha256",
    }  # fmt: skip
    assert f"jobs/{job.id}/request.json" in receipt["deleted"]
    assert http.get(path).json()["state"] == "purged"
    assert http.get(f"{path}/logs").json()["code"] == "purged"
    assert http.post(f"{path}/resume").json()["code"] == "purged"
    assert http.get("/v1/jobs").json()["data"] == []
    assert http.get("/v1/jobs", params={"state": "purged"}).json()["data"][0]["id"] == job.id


def test_what_has_succeeded_is_not_resumed(look: TestClient, done: str) -> None:
    answer = look.post(f"/v1/jobs/{done}/resume")
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_state")


def test_events_as_a_page_and_as_a_stream(look: TestClient, done: str) -> None:
    path = f"/v1/jobs/{done}/events"
    page = look.get(path).json()
    numbers = [event["seq"] for event in page["data"]]
    assert numbers == [*range(1, len(numbers) + 1)]
    assert page["next"] == str(numbers[-1])
    assert look.get(path, params={"after": 2, "limit": 1}).json()["data"] == page["data"][2:3]
    stream = look.get(path, headers={"Accept": "text/event-stream"})
    assert stream.headers["content-type"].startswith("text/event-stream")
    sent = re.findall(r"id: (\d+)\nevent: (\w+)\ndata: (.*)\n\n", stream.text)
    assert [json.loads(data) for _, _, data in sent] == page["data"]
    assert stream.text.endswith("event: end\ndata: {}\n\n")
    rest = look.get(path, headers={"Accept": "text/event-stream", "Last-Event-ID": "3"})
    assert re.findall(r"id: (\d+)", rest.text) == [str(number) for number in numbers[3:]]
    wrong = look.get(path, headers={"Accept": "text/event-stream", "Last-Event-ID": "x"})
    assert wrong.json()["param"] == "Last-Event-ID"


def test_a_stream_follows_a_running_job_to_its_end(http: TestClient, engine: Engine) -> None:
    job = driver.submit(engine)
    stream = http.get(f"/v1/jobs/{job.id}/events", headers={"Accept": "text/event-stream"})
    states = [json.loads(data)["data"].get("state") for data in re.findall(r"data: (.+seq.+)", stream.text)]
    assert [state for state in states if state][-1] == "succeeded"
    numbers = [int(number) for number in re.findall(r"id: (\d+)", stream.text)]
    assert numbers == [*range(1, len(numbers) + 1)]


def test_logs_by_offset_and_followed(http: TestClient, engine: Engine) -> None:
    job = driver.reach(engine, driver.submit(engine), "succeeded")
    log = engine.folder(job.id) / "logs" / "trainer.log"
    log.write_bytes(b"first\n\x1b[31mred\x07\xc2\x9b1m second\n")
    whole = http.get(f"/v1/jobs/{job.id}/logs")
    assert whole.content == b"first\n?[31mred???1m second\n"  # as long as the file: offsets stay
    assert whole.headers["x-next-offset"] == str(log.stat().st_size)
    assert http.get(f"/v1/jobs/{job.id}/logs", params={"offset": 6}).content == whole.content[6:]
    assert http.get(f"/v1/jobs/{job.id}/logs", params={"follow": 1}).content == whole.content
    assert http.get(f"/v1/jobs/{job.id}/logs", params={"name": "../trainer"}).status_code == 422
    log.unlink()
    log.symlink_to("/etc/passwd")
    assert b"root" not in http.get(f"/v1/jobs/{job.id}/logs").content


def test_artifacts_reports_checkpoints(http: TestClient, engine: Engine) -> None:
    job = driver.submit(engine, "slow")
    path = f"/v1/jobs/{job.id}"
    assert http.get(f"{path}/artifacts").json()["code"] == "not_finished"
    assert http.get(f"{path}/report.html").json()["code"] == "not_finished"
    engine.cancel(job.id)
    job = driver.reach(engine, driver.submit(engine), "succeeded")
    path = f"/v1/jobs/{job.id}"
    listed = {artifact["name"]: artifact for artifact in http.get(f"{path}/artifacts").json()["data"]}
    assert {name: artifact["sha256"] for name, artifact in listed.items()} == job.artifacts
    for name, artifact in listed.items():
        assert len(http.get(f"{path}/artifacts/{name}").content) == artifact["size"]
    report = http.get(f"{path}/report.html")
    assert report.text == "<p>report"
    assert http.head(f"{path}/report.html").headers["content-length"] == str(len(report.content))
    assert "script" not in report.headers["content-security-policy"]
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")
    assert http.get(f"{path}/report.json").json() == {}
    assert http.get(f"{path}/artifacts/state.db").json()["code"] == "not_found"
    folder = engine.folder(job.id) / "run" / "checkpoints"
    folder.mkdir()
    (folder / "last.ckpt").write_bytes(b"12345")
    assert http.get(f"{path}/checkpoints").json() == {
        "data": [{"name": "last.ckpt", "size": 5}],
        "checks": [],
        "next": None,
    }


def test_a_job_by_resumable_upload(http: TestClient, engine: Engine) -> None:
    data = GZIP * 1000
    upload = http.post("/v1/uploads", json={"size": len(data)})
    path = upload.headers["location"]
    assert (upload.status_code, upload.json()["received"]) == (201, 0)
    wanted = {"model": "quick", "upload": upload.json()["id"], "seed": 5}
    assert http.put(path, params={"offset": 0}, content=data[:1000]).json()["received"] == 1000
    assert http.post("/v1/jobs", json=wanted).json()["param"] == "upload"  # not all of it is there
    wrong = http.put(path, params={"offset": 500}, content=b"x")
    assert (wrong.status_code, wrong.json()["received"]) == (409, 1000)
    assert http.put(path, params={"offset": 1000}, content=data[1000:]).json()["received"] == len(data)
    assert http.put(path, params={"offset": len(data)}, content=b"x").json()["code"] == "too_large"


def test_an_upload_becomes_one_job(http: TestClient, engine: Engine) -> None:
    upload = http.post("/v1/uploads").json()["id"]
    http.put(f"/v1/uploads/{upload}", params={"offset": 0}, content=GZIP)
    assert http.get(f"/v1/uploads/{upload}").json() == {"id": upload, "received": len(GZIP), "size": None}
    wanted = {"model": "quick", "upload": upload, "epochs": 2}
    made = [http.post("/v1/jobs", json=wanted, headers={"Idempotency-Key": "one"}) for _ in range(3)]
    assert {answer.status_code for answer in made} == {202}
    assert len({answer.json()["id"] for answer in made}) == 1
    assert http.get(f"/v1/uploads/{upload}").json()["code"] == "not_found"
    assert http.post("/v1/jobs", json=wanted).json()["code"] == "not_found"
    again = http.post("/v1/uploads").json()["id"]  # the same bytes, sent once more
    http.put(f"/v1/uploads/{again}", params={"offset": 0}, content=GZIP)
    repeated = http.post("/v1/jobs", json={**wanted, "upload": again}, headers={"Idempotency-Key": "one"})
    assert repeated.json()["id"] == made[0].json()["id"]
    assert http.get(f"/v1/uploads/{again}").json()["code"] == "not_found"
    job = driver.reach(engine, engine.jobs()[0], "succeeded")
    assert (engine.folder(job.id) / "dataset" / "clip-0001.txt").read_bytes() == GZIP


def test_a_full_queue_keeps_the_upload(tmp_path: Path) -> None:
    with driver.running(tmp_path / "home", queue_cap=1) as engine:
        http = client_of(engine)
        first = driver.submit(engine, "slow")
        upload = http.post("/v1/uploads").json()["id"]
        http.put(f"/v1/uploads/{upload}", params={"offset": 0}, content=GZIP)
        wanted, key = {"model": "quick", "upload": upload}, {"Idempotency-Key": "k"}
        assert http.post("/v1/jobs", json=wanted, headers=key).json()["code"] == "busy"
        engine.cancel(first.id)
        driver.reach(engine, first, "cancelled")
        assert http.post("/v1/jobs", json=wanted, headers=key).status_code == 202


def test_dropped_and_refused_uploads_leave_nothing(http: TestClient, engine: Engine) -> None:
    upload = http.post("/v1/uploads").json()["id"]
    assert (
        http.put(f"/v1/uploads/{upload}", params={"offset": 0}, content=b"PK\x03\x04").json()["code"]
        == "unsupported_media"
    )
    assert http.delete(f"/v1/uploads/{upload}").status_code == 204
    http.post("/training", data={"base_model_name": "gpt"}, files=form())
    http.post("/v1/datasets/validate", files=form())
    assert not list((engine.home.path / "uploads").iterdir())


def test_validation_without_training(http: TestClient, engine: Engine) -> None:
    answer = http.post("/v1/datasets/validate", files=form())
    assert (answer.status_code, answer.json()["ok"], answer.json()["utterances"]) == (200, True, 1)
    assert engine.jobs() == []
    context = http.app.state.context
    dataset = {"utterances": 0, "seconds": 0.0, "sha256": None, "counts": {"D02": 1}, "issues": [{"code": "D02"}]}
    refused = IntakeReport(Failure("dataset_invalid", "no clips"), dataset)
    context.engine = type("Refusing", (), {"new_upload": engine.new_upload, "inspect": lambda *_: refused})()
    answer = http.post("/v1/datasets/validate", files=form())
    assert (answer.status_code, answer.json()["code"]) == (422, "dataset_invalid")
    assert answer.json()["issues"] == [{"code": "D02"}]


def test_the_server_itself(look: TestClient, done: str) -> None:
    assert look.get("/healthz").json() == {"status": "ok"}
    assert look.get("/readyz").json() == {"status": "ready"}
    assert look.get("/version").json()["name"] == "asr-lightning"
    assert {model["name"] for model in look.get("/v1/models").json()["data"]} == {*driver.MODELS}
    figures = look.get("/metrics").text
    assert 'asr_jobs{state="succeeded"}' in figures
    assert "asr_supervised 1" in figures
    page = look.get("/")
    assert done not in page.text  # a shell without data
    assert "'unsafe-inline'" not in page.headers["content-security-policy"]


def test_not_ready_when_nothing_moves_jobs_on(engine: Engine) -> None:
    http = client_of(engine)
    engine.is_supervised = lambda: False  # type: ignore[method-assign]
    assert (http.get("/readyz").status_code, http.get("/readyz").json()["code"]) == (503, "unavailable")


def test_codes_do_not_change() -> None:
    assert {code: status for code, (status, _) in CODES.items()} == {
        "bad_request": 400, "unauthorized": 401, "forbidden": 403, "forbidden_origin": 403, "not_found": 404,
        "method_not_allowed": 405, "timeout": 408, "busy": 409, "not_finished": 409, "wrong_state": 409, "purged": 410,
        "artifact_damaged": 410, "too_large": 413,
        "unsupported_media": 415, "invalid_parameter": 422, "idempotency_conflict": 422, "model_not_allowed": 422,
        "dataset_invalid": 422, "quota_exceeded": 429, "internal": 500, "unavailable": 503, "disk_full": 507,
        "quota_bytes": 507,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/nothing", "not_found"),
        ("GET", "/v1/jobs/nobody", "not_found"),
        ("DELETE", "/status", "method_not_allowed"),
        ("PATCH", "/status", "method_not_allowed"),
        ("OPTIONS", "/v1/jobs", "method_not_allowed"),
        ("GET", "/v1/jobs?limit=many", "invalid_parameter"),
        ("POST", "/training", "unsupported_media"),
        ("POST", "/v1/jobs", "unsupported_media"),
        ("PUT", "/v1/uploads/none?offset=0", "not_found"),
        ("GET", "/tensorboard/", "not_found"),
    ],
)
def test_every_refusal_is_a_problem(look: TestClient, method: str, path: str, code: str) -> None:
    answer = look.request(method, path)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["status"]) == (code, answer.status_code)
    assert problem.keys() >= {"type", "title", "status", "code", "detail"}
    assert code != "method_not_allowed" or answer.headers["allow"]


def test_json_bodies(look: TestClient) -> None:
    def ask(content: bytes) -> tuple[int, str]:
        answer = look.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})
        return answer.status_code, answer.json()["code"]

    for content in (b"", b"[]", b"{", b'{"a": "\\ud800"}', b'{"\\ud800": 1}', b"\xff", b"[" * 50_000, b'{"epochs": 3}'):
        assert ask(content) == (422, "invalid_parameter"), content
    assert ask(b" " * 70_000) == (413, "too_large")
    assert ask(b'{"model": "quick", "upload": "none"}') == (404, "not_found")
