"""The files in the engine's home: a full disk, a lost store, deletion, and links made by attackers (P10 to P14)."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from asr_lightning.job_folder import processes
from asr_lightning.server.engine import states
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.errors import DiskFullError, HomeError, WrongStateError
from tests.server import driver
from tests.server.driver import lives, reach, running, states_in_events, submit, wait


def test_p10_nothing_is_accepted_on_a_full_disk(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine), "succeeded")
        engine.settings = driver.settings(home, min_free_bytes=1 << 60)
        with pytest.raises(DiskFullError, match="delete old jobs") as caught:
            engine.new_upload()
        assert caught.value.errno == errno.ENOSPC
        assert [listed.id for listed in engine.jobs()] == [job.id]


@pytest.mark.parametrize("damage", ["deleted", "garbled", "cut"])
def test_p12_store_is_rebuilt_from_the_folders(home: Path, damage: str) -> None:
    with running(home) as engine:
        done = reach(engine, submit(engine, key="k"), "succeeded")
        bad = reach(engine, submit(engine, data=b"bad"), "failed")
        purged = reach(engine, submit(engine), "succeeded")
        stopped = reach(engine, submit(engine, "slow"), "running")
        engine.cancel(stopped.id)
        reach(engine, stopped, "cancelled")
        engine.purge(purged.id)
        before = {job.id: (job.state, job.artifacts, job.error) for job in engine.jobs() if job.id != purged.id}
        alive = reach(engine, submit(engine, "slow"), "running")
        engine.stop()
        spoil(home / "state.db", damage)
        engine.__init__(driver.settings(home))  # type: ignore[misc]
        engine.start()
        after = {job.id: (job.state, job.artifacts, job.error) for job in engine.jobs()}
        assert after.pop(alive.id)[0] in states.TRAINING
        assert after == before
        assert {done.id, bad.id, stopped.id} == set(after)
        assert submit(engine, key="k").id == done.id
        assert len(lives(engine, alive.id)) == 1


def spoil(path: Path, damage: str) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    if damage == "deleted":
        path.unlink()
    elif damage == "garbled":
        path.write_bytes(os.urandom(8192))
    else:
        path.write_bytes(path.read_bytes()[:5000])


def test_p13_wall_clock_decides_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A day back at every look, for the server and its workers' files."""
    real = time.time
    jumps = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (-1) ** next(jumps) * 86400)
    with running(home) as engine:
        jobs = [submit(engine, "dies-once"), submit(engine)]
        for job in jobs:
            os.utime(reach(engine, job, "succeeded") and engine.folder(job.id) / "progress.json", (1, 1))
        assert [job.id for job in engine.jobs()] == [job.id for job in jobs[::-1]]


def test_p14_deleting_leaves_no_byte(home: Path) -> None:
    with running(home, keep_archives=True) as engine:
        job = reach(engine, submit(engine), "succeeded")
        model = (engine.folder(job.id) / "artifacts" / "model.tar.gz").read_bytes()
        assert driver.files_with(home, driver.VOICE)
        receipt = engine.purge(job.id)
        assert f"jobs/{job.id}/dataset/clip-0001.txt" in receipt.deleted
        assert receipt.bytes > len(driver.VOICE)
        assert driver.files_with(home, driver.VOICE) == driver.files_with(home, model[:64]) == []
        assert not (home / "jobs" / job.id).exists()
        assert engine.job(job.id).state == "purged"
        assert engine.purge(job.id).deleted == []  # again: nothing more
        assert states_in_events(engine, job) == ["purged"]
        assert receipt.artifacts == job.artifacts and receipt.dataset_sha256 == job.dataset["sha256"]
        assert (receipt.created_at, receipt.ended_at) == (job.created_at, job.ended_at)
        slow = submit(engine, "slow")
        with pytest.raises(WrongStateError):
            engine.purge(slow.id)


def test_p14_deleting_leaves_neither_the_key_nor_a_copy_of_the_store(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine, key="A-Mueller-1948"), "succeeded")
        engine.store.shrink()
        (home / "state.db.damaged").write_bytes(engine.home.store.read_bytes())
        assert len(driver.files_with(home, b"A-Mueller-1948")) >= 3
        receipt = engine.purge(job.id)
        assert "state.db.damaged" in receipt.deleted
        assert driver.files_with(home, b"A-Mueller-1948") == []
        assert submit(engine, key="A-Mueller-1948").id != job.id  # the key is free again


def test_old_jobs_are_deleted_after_the_retention_time(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine), "succeeded")
        still_running = reach(engine, submit(engine, "slow"), "running")
        engine.stop()
        engine.__init__(driver.settings(home, retention_s=0.0))  # type: ignore[misc]
        engine.start()
        reach_purged = lambda: engine.job(job.id).state == "purged"  # noqa: E731
        wait(reach_purged, "the deletion")
        assert engine.job(still_running.id).state == "running"


def test_checking_data_keeps_nothing(home: Path) -> None:
    with running(home) as engine:
        archive = engine.new_upload()
        archive.write_bytes(driver.VOICE)
        assert engine.inspect(archive).error is None
        assert driver.files_with(home, driver.VOICE) == []
        assert engine.jobs() == []


def test_start_removes_partial_uploads_and_follows_no_planted_link(home: Path, tmp_path: Path) -> None:
    """T27: a link in the home is left as it is, and not followed."""
    outside = tmp_path / "mine"
    outside.mkdir()
    (outside / "kept").touch()
    with running(home) as engine:
        engine.new_upload()
        (home / "uploads" / "link").symlink_to(outside)
        (home / "trash" / "link").symlink_to(outside)
        (home / "jobs" / "link").symlink_to(outside)
        engine.stop()
        engine.__init__(driver.settings(home))  # type: ignore[misc]
        engine.start()
        for name in ("uploads", "trash", "jobs"):
            assert [path.is_symlink() for path in (home / name).iterdir()] == [True]
        assert (outside / "kept").exists()


def test_home_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HomeError, match="name another --home"):
        Engine(driver.settings(tmp_path / "file" / "home"))


def test_workers_see_no_secret_of_the_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_SERVER_TOKEN", "secret")
    monkeypatch.setenv("HF_TOKEN", "hub")
    with running(home) as engine:
        reading = reach(engine, submit(engine, data=b"stuck"), "validating")
        wait(lambda: processes.of_job(reading.id), "the intake")
        seen = psutil.Process(processes.of_job(reading.id)[0].pid).environ()
        assert not {"ASR_SERVER_TOKEN", "HF_TOKEN"} & set(seen)
        training = processes.environment("x", home, secrets=True)
        assert training["HF_TOKEN"] == "hub"
        assert "ASR_SERVER_TOKEN" not in training


def test_changes_are_compared_and_set(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine), "succeeded")
        with pytest.raises(ValueError, match="no job goes from succeeded to running"):
            engine.store.change(job, "running")
        stale = reach(engine, submit(engine, "slow"), "running")
        engine.cancel(stale.id)
        assert engine.store.change(stale, "evaluating") is None
        with closing(sqlite3.connect(engine.home.store)) as connection, pytest.raises(sqlite3.IntegrityError):
            connection.execute("UPDATE job SET device = 'x'")


def test_flood_of_output_is_capped(home: Path) -> None:
    """T26."""
    with running(home, max_log_bytes=1_000_000) as engine:
        logs = engine.folder(reach(engine, submit(engine, "flood"), "succeeded").id) / "logs"
        assert sum(path.stat().st_size for path in logs.iterdir()) < 1_000_000
        assert (logs / "trainer.log.1").read_bytes().endswith(b"xxx")
