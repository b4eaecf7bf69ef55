"""Files of a job that are lost, changed or unreadable: they are named, are not handed out, and harm no other job."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from asr_lightning.server.engine import damage
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.records import Job
from tests.server import driver

MODEL = "model.tar.gz"
PIPE = b"a named pipe"


@pytest.fixture
def job(shared: Engine, done: str) -> Iterator[Job]:
    """The finished job, whose folder is put back after the test."""
    folder, backup = shared.folder(done), shared.home.path.with_name("backup")
    shutil.copytree(folder, backup)
    yield shared.job(done)
    shutil.rmtree(folder, ignore_errors=True)
    backup.rename(folder)


@pytest.fixture(scope="module")
def other(shared: Engine, done: str) -> str:
    """Id of another finished job, which is newer."""
    return driver.reach(shared, driver.submit(shared), "succeeded").id


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Another byte in a file of the same size and time."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = [(Path.unlink, "lost"), (truncate, "changed"), (flip, "changed"), (link, "changed"), (folder, "changed")]


@pytest.mark.parametrize("looked_before", [True, False])
@pytest.mark.parametrize(("do", "state"), DAMAGE, ids=lambda each: getattr(each, "__name__", each))
def test_p15_a_damaged_artifact_is_named_and_not_handed_out(
    look: TestClient, shared: Engine, job: Job, do: Callable[[Path], None], state: str, looked_before: bool
) -> None:
    http = look
    path, model = f"/v1/jobs/{job.id}", f"/v1/jobs/{job.id}/artifacts/{MODEL}"
    if looked_before:
        assert http.get(model).status_code == 200
        assert http.get(path).json()["damage"] == []
    do(shared.folder(job.id) / "artifacts" / MODEL)
    for ask in (
        http.get(model),
        http.head(model),
        http.get(model, headers={"Range": "bytes=10-"}),
        http.get(model, headers={"If-None-Match": f'"{job.artifacts[MODEL]}"'}),
        http.get("/download_model", params={"training_id": job.id}),
    ):
        assert ask.status_code == 410
        if ask.request.method == "GET":
            assert (ask.json()["code"], ask.json()["state"]) == ("artifact_damaged", state)
            assert job.artifacts[MODEL] in ask.json()["detail"]
    assert http.get(f"{path}/artifacts/report.html").status_code == 200
    shown = http.get(path).json()
    assert shown["state"] == "succeeded"
    assert [(bad["name"], bad["state"]) for bad in shown["damage"]] == [(f"artifacts/{MODEL}", state)]
    listed = {artifact["name"]: artifact["state"] for artifact in http.get(f"{path}/artifacts").json()["data"]}
    assert listed == {MODEL: state, "report.html": "ok", "report.json": "ok"}
    assert {each["id"]: each["damage"] for each in http.get("/v1/jobs").json()["data"]}[job.id] == shown["damage"]
    assert (
        http.get("/status", params={"training_id": job.id})
        .json()["progress"]
        .startswith(f"finished, but {MODEL} is no longer")
    )


def test_p15_a_lost_folder_loses_every_artifact(http: TestClient, engine: Engine) -> None:
    job = driver.reach(engine, driver.submit(engine), "succeeded")
    engine.folder(job.id).rename(engine.home.path / "elsewhere")
    assert {bad["state"] for bad in http.get(f"/v1/jobs/{job.id}").json()["damage"]} == {"lost"}
    assert len(http.get(f"/v1/jobs/{job.id}/artifacts").json()["data"]) == 3
    assert http.delete(f"/v1/jobs/{job.id}").status_code == 200


def test_an_artifact_is_hashed_once_and_again_when_it_was_restored(
    look: TestClient, shared: Engine, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    http = look
    (shared.folder(job.id) / "artifacts" / MODEL).touch()  # the file as the test before left it may be known
    file, route = shared.folder(job.id) / "artifacts" / MODEL, f"/v1/jobs/{job.id}/artifacts/{MODEL}"
    hashed, digest = [], damage.stream_digest
    monkeypatch.setattr(damage, "stream_digest", lambda stream: hashed.append(1) or digest(stream))
    for start in range(0, 500, 100):
        assert http.get(route, headers={"Range": f"bytes={start}-"}).status_code == 206
    assert len(hashed) == 1
    data = file.read_bytes()
    truncate(file)
    assert [http.get(route).status_code for _ in range(2)] == [410, 410]
    assert len(hashed) == 2
    file.write_bytes(data)
    assert hashlib.sha256(http.get(route).content).hexdigest() == job.artifacts[MODEL]
    assert http.get(f"/v1/jobs/{job.id}").json()["damage"] == []


@pytest.mark.parametrize("tag", ['"{}"', 'W/"{}"', '"other", "{}"', "*"])
def test_a_client_that_has_the_file_gets_304(look: TestClient, job: Job, tag: str) -> None:
    http = look
    digest = job.artifacts["report.html"]
    for path in (f"/v1/jobs/{job.id}/report.html", f"/v1/jobs/{job.id}/artifacts/report.html"):
        for method in ("GET", "HEAD"):
            answer = http.request(method, path, headers={"If-None-Match": tag.format(digest)})
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", f'"{digest}"')
            assert "content-length" not in answer.headers
        assert http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


PROGRESS = {"attempt": 1, "phase": "running", "message": "training"}
UNREADABLE = {
    "a folder": None,
    "not UTF-8": b"\xff\xfe{",
    "cut off": b'{"attempt": 1',
    "an infinite number": json.dumps({**PROGRESS, "eta_s": 1}).replace("1}", "1e999}").encode(),
    "half of a surrogate pair": json.dumps({**PROGRESS, "message": "\ud800"}).encode(),
    "nested without end": b"[" * 100_000,
    "a named pipe": PIPE,
}
ODD = {
    "a huge integer": json.dumps({**PROGRESS, "fraction": 10**400}).encode(),
    "numbers in a list": json.dumps({**PROGRESS, "checks": [1, None]}).encode(),
}


@pytest.mark.parametrize("kind", [*UNREADABLE, *ODD])
def test_p16_one_unreadable_file_breaks_no_answer(
    look: TestClient, shared: Engine, job: Job, other: str, kind: str
) -> None:
    content = {**UNREADABLE, **ODD}[kind]
    file = shared.folder(job.id) / "progress.json"
    file.unlink()
    if content is None:
        file.mkdir()
    elif content is PIPE:
        os.mkfifo(file)
    else:
        file.write_bytes(content)
    assert look.get("/status", params={"training_id": job.id}).json()["state"] == "succeeded"
    listed = {each["id"]: each for each in look.get("/v1/jobs").json()["data"]}
    assert [*listed] == [other, job.id]
    shown = look.get(f"/v1/jobs/{job.id}").json()
    assert shown["state"] == "succeeded"
    assert [each["name"] for each in shown["damage"]] == (["progress.json"] if kind in UNREADABLE else [])
    assert listed[job.id]["damage"] == shown["damage"]
    assert listed[other]["damage"] == look.get(f"/v1/jobs/{other}").json()["damage"] == []


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system refuses such names")
def test_a_name_that_is_not_utf8_is_in_the_receipt(look: TestClient, shared: Engine, other: str) -> None:
    job = driver.reach(shared, driver.submit(shared), "succeeded")
    (shared.folder(job.id) / "dataset" / os.fsdecode(b"\xff.wav")).touch()
    answer = look.delete(f"/v1/jobs/{job.id}")
    assert answer.status_code == 200
    assert f"jobs/{job.id}/dataset/\\udcff.wav" in answer.json()["deleted"]


@pytest.mark.parametrize("name", ["logs/trainer.log", "logs/intake.log", "run/checkpoints"])
def test_p16_a_folder_or_file_in_the_wrong_place_is_no_internal_error(
    look: TestClient, shared: Engine, job: Job, name: str
) -> None:
    place = shared.folder(job.id) / name
    if place.is_file():
        folder(place)
    else:
        place.write_bytes(b"")
    for route in ("", "/logs", "/logs?name=intake", "/checkpoints", "/events", "/artifacts"):
        assert look.get(f"/v1/jobs/{job.id}{route}").status_code == 200, route


def test_p16_a_running_job_ends_although_its_progress_cannot_be_read(engine: Engine) -> None:
    job = driver.reach(engine, driver.submit(engine, "brief"), "running")
    file = engine.folder(job.id) / "progress.json"
    file.unlink(missing_ok=True)
    driver.wait(lambda: engine.job(job.id).state != "running" or make(file), "the folder")
    ended = driver.wait(lambda: now if (now := engine.job(job.id)).ended_at else None, "an end")
    assert ended.state in ("succeeded", "interrupted", "failed")


def make(place: Path) -> bool:
    try:
        place.mkdir()
    except FileExistsError:
        place.unlink(missing_ok=True)
        return False
    return True
