"""The three routes of the predecessor: their fields and texts, and additions that break no client."""

from __future__ import annotations

import dataclasses
import hashlib
import re

import pytest
from starlette.testclient import TestClient

from asr_lightning.job_folder.progress import Progress
from asr_lightning.server.engine import states
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http import views
from asr_lightning.server.http.settings import LOOPBACK_HOSTS
from asr_lightning.server.http.tensorboard import TensorBoard
from tests.server import driver
from tests.server.http.conftest import GZIP, TOKEN, client_of, form

SEED_KEYS = {"progress", "status", "tensorboard_url", "training_dir", "training_id"}
ADDED = {"state", "error", "message", "eta_s", "epoch"}
WORDS = {
    "created": "checking data",
    "validating": "checking data",
    "queued": "waiting for the device",
    "preparing": "loading base model",
    "running": "training",
    "evaluating": "running fine-tuned model evaluation",
    "packaging": "packaging model",
    "cancelling": "cancelling",
    "succeeded": "finished",
    "failed": "failed: no reason is known",
    "cancelled": "cancelled",
    "interrupted": "interrupted",
    "purged": "deleted",
}


def test_a_training_from_curl_to_model(http: TestClient, engine: Engine) -> None:
    assert http.get("/status").json()["status"] == "idle"
    fields = {"base_model_name": "openai/quick", "epochs": "3", "language": "en"}
    answer = http.post("/training", data=fields, files=form())
    assert answer.status_code == 200
    assert answer.json().keys() == {"training_id"}
    training = answer.json()["training_id"]
    job = driver.reach(engine, engine.job(training), "succeeded")
    assert (job.spec.model, job.spec.epochs, job.spec.language, job.source) == ("quick", 3, "en", "seed")
    status = http.get("/status").json()
    assert status.keys() == SEED_KEYS | ADDED
    assert (status["progress"], status["status"], status["training_id"]) == ("finished", "idle", training)
    assert status["message"] == "better" == http.get(f"/v1/jobs/{training}").json()["metrics"]["verdict"]
    assert http.get("/v1/jobs").json()["data"][0]["progress"]["message"] == "finished: better"
    assert status["training_dir"] == f"jobs/{training}"
    model = http.get("/download_model", params={"training_id": training})
    assert hashlib.sha256(model.content).hexdigest() == job.artifacts["model.tar.gz"]
    assert model.headers["content-type"] == "application/gzip"
    assert model.headers["content-length"] == str(len(model.content))


def test_status_before_any_job(http: TestClient) -> None:
    status = http.get("/status").json()
    assert status.pop("progress") == "no training yet"
    assert status.pop("status") == "idle"
    assert status.keys() == (SEED_KEYS | ADDED) - {"progress", "status"}
    assert set(status.values()) == {None}


def test_where_tensorboard_is(shared: Engine) -> None:
    pod = "7fd05eukwj0oza-5553.proxy.runpod.net"
    hosts, jobs = LOOPBACK_HOSTS | {pod}, shared.home.path / "jobs"

    def url(headers: dict[str, str], token: str | None = None, public: bool = False) -> str:
        board = TensorBoard(jobs, jobs / "log", public)
        http = client_of(shared, board, hosts=hosts, token=token, tensorboard_public=public)
        return http.get("/status", headers={**headers, "Authorization": f"Bearer {token}"}).json()["tensorboard_url"]

    assert url({}) == "http://127.0.0.1:5553/tensorboard/"
    assert url({}, public=True) == "http://127.0.0.1:6006/"  # as with the predecessor
    assert re.fullmatch(rf"https://{pod}/tensorboard/s/\d+\.[0-9a-f]{{40}}/", url({"Host": pod}, TOKEN))


def test_every_state_has_its_words(engine: Engine) -> None:
    assert {*WORDS} == states.STATES
    job = driver.submit(engine, data=b"stuck")
    for state, words in WORDS.items():
        now = dataclasses.replace(job, state=state)
        assert views.status(now, None)["progress"] == words
        assert views.status(now, None)["status"] == ("busy" if state in states.ACTIVE else "idle")
    running = Progress(attempt=1, phase="running", message="training, epoch 3 of 10", epoch=2.5, eta_s=60.0, checks=[])
    shown = views.status(dataclasses.replace(job, state="running", progress=running), None)
    assert (shown["progress"], shown["epoch"], shown["eta_s"]) == ("training, epoch 3 of 10", 2.5, 60.0)
    last_step = dataclasses.replace(running, eta_s=0.0)  # a validation follows
    assert views.status(dataclasses.replace(job, state="running", progress=last_step), None)["eta_s"] is None
    late = views.status(dataclasses.replace(job, state="evaluating", progress=running), None)
    assert late["progress"] == "running fine-tuned model evaluation"


def test_a_failed_training_is_idle_and_says_why(http: TestClient, engine: Engine) -> None:
    http.post("/training", data={"base_model_name": "oom"}, files=form())
    driver.reach(engine, engine.jobs()[0], "failed")
    status = http.get("/status").json()
    assert (status["status"], status["state"], status["error"]["code"]) == ("idle", "failed", "oom")
    assert status["progress"] == "failed: out of memory: take a smaller model" == "failed: " + status["message"]


def test_busy_is_answered_before_the_data_are_read(http: TestClient, engine: Engine) -> None:
    first = http.post("/training", data={"base_model_name": "slow"}, files=form()).json()["training_id"]
    answer = http.post("/training", data={"base_model_name": "quick"}, files=form(GZIP + bytes(10 << 20)))
    assert answer.status_code == 409
    assert http.app.state.context.engine.home.sizes(engine.home.uploads) == {}
    assert (answer.json()["code"], answer.json()["training_id"]) == ("busy", first)
    assert int(answer.headers["retry-after"]) > 0
    assert http.get("/status").json()["status"] == "busy"
    with_key = http.post("/training", data={"base_model_name": "quick"}, files=form(), headers={"Idempotency-Key": "k"})
    assert (with_key.status_code, with_key.json()["training_id"]) == (409, first)  # at the commit
    assert http.post(f"/v1/jobs/{first}/cancel").status_code == 202
    driver.reach(engine, engine.job(first), "cancelled")
    assert not list((engine.home.path / "uploads").iterdir())


@pytest.mark.parametrize(
    ("fields", "data", "code", "param"),
    [
        ({"base_model_name": "gpt"}, GZIP, "model_not_allowed", "base_model_name"),
        ({"base_model_name": "quick", "epochs": "many"}, GZIP, "invalid_parameter", "epochs"),
        ({"base_model_name": "quick", "epoch": "3"}, GZIP, "invalid_parameter", "epoch"),
        ({"epochs": "3"}, GZIP, "invalid_parameter", "base_model_name"),
        ({"base_model_name": "quick"}, b"PK zip", "unsupported_media", "data"),
        ({"base_model_name": "quick", "epochs": "0"}, GZIP + bytes(1 << 20), "invalid_parameter", "epochs"),
        ({"base_model_name": "quick"}, GZIP, "busy", None),
        ({"base_model_name": "quick"}, GZIP + bytes(1 << 20), "busy", None),
        ({}, GZIP + bytes(1 << 20), "busy", None),  # the model may come after the data
        ({"language": "deu"}, GZIP + bytes(1 << 20), "busy", None),  # which some models know
        ({"base_model_name": "quick"}, b"", "invalid_parameter", "data"),
    ],
)
def test_busy_hides_no_wrong_field(http: TestClient, engine: Engine, fields, data, code: str, param: str) -> None:
    driver.submit(engine, "slow")
    answer = http.post("/training", data=fields, files=form(data))
    assert (answer.json()["code"], answer.json().get("param")) == (code, param)


def test_a_retry_finds_its_job_although_it_is_active(http: TestClient) -> None:
    ids = {
        http.post(
            "/training", data={"base_model_name": "slow"}, files=form(), headers={"Idempotency-Key": "same"}
        ).json()["training_id"]
        for _ in range(3)
    }
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("fields", "files", "status", "code", "param"),
    [
        ({"base_model_name": "quick", "learning_rate": "1"}, form(), 422, "invalid_parameter", "learning_rate"),
        ({"base_model_name": "quick", "epochs": "0"}, form(), 422, "invalid_parameter", "epochs"),
        ({"base_model_name": "quick", "epochs": "2.5"}, form(), 422, "invalid_parameter", "epochs"),
        ({"base_model_name": "quick", "language": "klingon"}, form(), 422, "invalid_parameter", "language"),
        ({"base_model_name": "gpt"}, form(), 422, "model_not_allowed", "base_model_name"),
        ({}, form(), 422, "invalid_parameter", "base_model_name"),
        ({"base_model_name": "quick"}, {"x": ("x", b"", "text/plain")}, 422, "invalid_parameter", "x"),
        ({"base_model_name": "quick"}, form(b""), 422, "invalid_parameter", "data"),
        ({"base_model_name": "quick"}, form(b"PK\x03\x04 a zip"), 415, "unsupported_media", "data"),
    ],
)  # fmt: skip
def test_refusals(look: TestClient, fields, files, status: int, code: str, param: str) -> None:
    answer = look.post("/training", data=fields, files=files)
    assert (answer.status_code, answer.json()["code"], answer.json()["param"]) == (status, code, param)
    assert answer.headers["content-type"] == "application/problem+json"


def test_download_says_why_there_is_none(http: TestClient, engine: Engine) -> None:
    def ask(training: str) -> tuple[int, str]:
        answer = http.get("/download_model", params={"training_id": training})
        return answer.status_code, answer.json()["code"]

    assert ask("1743450314") == (404, "not_found")
    job = driver.submit(engine, "slow")
    assert ask(job.id) == (409, "not_finished")
    engine.cancel(job.id)
    driver.reach(engine, job, "cancelled")
    assert http.delete(f"/v1/jobs/{job.id}").status_code == 200
    assert ask(job.id) == (410, "purged")
    assert http.get("/download_model").json()["code"] == "invalid_parameter"


def test_ranges_and_etag(look: TestClient, shared: Engine, done: str) -> None:
    params = {"training_id": done}
    whole = look.get("/download_model", params=params)
    digest = shared.job(done).artifacts["model.tar.gz"]
    assert whole.headers["etag"] == f'"{digest}"'
    assert whole.headers["accept-ranges"] == "bytes"
    rest = look.get("/download_model", params=params, headers={"Range": "bytes=100-", "If-Range": f'"{digest}"'})
    assert rest.status_code == 206
    assert rest.headers["content-range"] == f"bytes 100-{len(whole.content) - 1}/{len(whole.content)}"
    assert whole.content[:100] + rest.content == whole.content
    changed = look.get("/download_model", params=params, headers={"Range": "bytes=100-", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, whole.content)
    assert look.get("/download_model", params=params, headers={"Range": "bytes=999999-"}).status_code == 416
    head = look.head("/download_model", params=params)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", whole.headers["etag"])


def test_deleting_during_a_download_cuts_nothing_short(engine: Engine) -> None:
    """P9: the file is open before the answer begins."""
    from asr_lightning.server.http.downloads import _open

    job = driver.reach(engine, driver.submit(engine), "succeeded")
    context = client_of(engine).app.state.context
    answer = _open(context, job, "model.tar.gz")
    engine.purge(job.id)
    import anyio

    sent: list[dict] = []

    async def read() -> None:
        async def send(message: dict) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "headers": [], "asgi": {"spec_version": "2.4"}}
        await answer(scope, None, send)

    anyio.run(read)
    body = b"".join(message.get("body", b"") for message in sent)
    assert hashlib.sha256(body).hexdigest() == job.artifacts["model.tar.gz"]


def test_the_archive_arrives_as_it_was_sent(http: TestClient, engine: Engine) -> None:
    data = GZIP + bytes(range(256)) * 20_000 + b"\r\n--boundary\r\n"
    http.post("/training", data={"base_model_name": "quick"}, files=form(data))
    job = driver.reach(engine, engine.jobs()[0], "succeeded")
    assert (engine.folder(job.id) / "dataset" / "clip-0001.txt").read_bytes() == data
