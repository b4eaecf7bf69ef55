"""Deleting and cancelling work on a full disk, and the server says that it is full (P19)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_lightning.durable import faults
from asr_lightning.job_folder import processes
from asr_lightning.server.engine import health
from asr_lightning.server.engine.engine import Engine
from tests.server import driver
from tests.server.driver import reach, running, submit
from tests.server.http.conftest import client_of

ROOT = Path(__file__).parents[3]
UNSHARE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture
def engine(home: Path) -> Iterator[Engine]:
    with running(home) as engine:
        yield engine


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="this system lets no user mount a file system")
def test_p19_on_a_disk_that_is_really_full(tmp_path: Path) -> None:
    call = [*UNSHARE, sys.executable, "-m", "tests.server.jobs.full_disk", str(tmp_path)]
    ended = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.stdout.splitlines()[-1:] == ["worked"], ended.stderr[-4000:]


@pytest.mark.parametrize("point", ["store.commit", "purge.recorded", "purge.renamed", "purge.removed"])
def test_p19_a_deletion_that_meets_a_full_disk_gives_up_the_reserve(
    home: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine), "succeeded")
        driver.wait(lambda: engine.health.reserve.size, "the reserve")
        monkeypatch.setenv(faults.VARIABLE, f"{point}:enospc")
        faults.forget()
        engine.purge(job.id)
        assert engine.health.reserve.size == 0
        assert engine.job(job.id).state == "purged"
        assert not (home / "jobs" / job.id).exists()
        assert driver.files_with(home, driver.VOICE) == []


def test_p19_a_cancellation_that_meets_a_full_disk_gives_up_the_reserve(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine, "stubborn"), "running")
        driver.wait(lambda: engine.health.reserve.size, "the reserve")
        monkeypatch.setenv(faults.VARIABLE, "store.commit:enospc")
        faults.forget()
        assert engine.cancel(job.id).state == "cancelling"
        assert engine.health.reserve.size == 0
        reach(engine, job, "cancelled")


def test_p19_the_server_says_that_the_disk_is_full(engine: Engine) -> None:
    http = client_of(engine)
    assert http.get("/readyz").json() == {"status": "ready"}
    assert "asr_disk_full 0" in http.get("/metrics").text
    engine.health._settings = driver.settings(engine.home.path, min_free_bytes=1 << 60)
    answer = http.get("/readyz")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert [trouble["code"] for trouble in answer.json()["troubles"]] == ["disk_full"]
    assert "delete old jobs" in answer.json()["detail"]
    figures = http.get("/metrics").text
    assert "asr_disk_full 1\n" in figures and "asr_disk_free_bytes " in figures


def test_failed_writes_are_counted_and_said(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    http = client_of(engine)
    job = reach(engine, submit(engine), "succeeded")
    monkeypatch.setenv(faults.VARIABLE, "store.commit:eio")
    faults.forget()
    assert http.delete(f"/v1/jobs/{job.id}").json()["code"] == "disk_full"
    assert http.get("/readyz").json()["troubles"][0]["code"] == "failed_writes"
    assert "asr_failed_writes_total 1\n" in http.get("/metrics").text
    monkeypatch.setattr(health, "FAILED_S", 0.0)
    assert http.get("/readyz").status_code == 200
    assert http.delete(f"/v1/jobs/{job.id}").status_code == 200


def test_a_job_whose_steps_fail_is_said_to_be_stuck(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder in the place of a log that must be cut off: the job is named, and can be cancelled."""
    with running(home, max_log_bytes=10) as engine:
        http = client_of(engine)
        job = reach(engine, submit(engine, data=b"stuck"), "validating")
        logs = engine.folder(job.id) / "logs"
        driver.wait((logs / "intake.log").exists, "the worker")
        (logs / "intake.log.1").mkdir()
        (logs / "intake.log").write_bytes(b"x" * 100)
        monkeypatch.setattr(health, "STUCK_S", 0.05)
        trouble = driver.wait(lambda: http.get("/readyz").json().get("troubles"), "the stuck job")[0]
        assert (trouble["code"], trouble["job"]) == ("stuck_job", job.id)
        assert "IsADirectoryError" in trouble["message"] and str(home) not in trouble["message"]
        assert "asr_jobs_stuck 1\n" in http.get("/metrics").text
        engine.cancel(job.id)
        reach(engine, job, "cancelled")
        assert http.get("/readyz").status_code == 200


def test_p19_a_job_whose_lock_is_damaged_can_be_cancelled(engine: Engine) -> None:
    job = reach(engine, submit(engine, "slow"), "running")
    lock = engine.folder(job.id) / "worker.lock"
    lock.unlink()
    lock.mkdir()
    engine.cancel(job.id)
    reach(engine, job, "cancelled")
    assert processes.of_job(job.id) == []


def test_a_training_that_says_nothing_is_said_to_be_stuck(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    job = reach(engine, submit(engine, "slow"), "running")
    monkeypatch.setattr(health, "SILENT_S", 1.0)
    assert engine.health.troubles() == []
    (trainer,) = processes.of_job(job.id)
    trainer.suspend()
    (trouble,) = driver.wait(engine.health.troubles, "the silence")
    assert (trouble.code, trouble.job) == ("stuck_job", job.id)
    trainer.resume()
    driver.wait(lambda: engine.health.troubles() == [], "news")
