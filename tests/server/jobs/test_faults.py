"""A kill -9, an exception and a full disk at every fault point of the engine lose no acknowledged job (P1, P2, P10).

The points are read from the source, so that a new one is tested without being listed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import asr_lightning.server.engine
from asr_lightning.durable import faults
from asr_lightning.job_folder import processes
from asr_lightning.server.engine import states
from asr_lightning.server.engine.engine import Engine
from tests.server import driver
from tests.server.driver import reach, submit, wait
from tests.server.jobs.life import live

ROOT = Path(__file__).parents[3]
SOURCE = "\n".join(path.read_text() for path in Path(asr_lightning.server.engine.__file__).parent.glob("*.py"))
NAMED = sorted(set(re.findall(r"faults\.point\(\"([a-z.]+)\"\)", SOURCE)) - {"store.commit"})
PHASES = [f"trainer.{phase}" for phase in ("running", "evaluating", "packaging")]  # named by an f-string
COMMITS = [f"store.commit:{number}" for number in range(1, 11)]
PLACES = [*NAMED, *PHASES, *COMMITS]


def fault(place: str, mode: str) -> str:
    name, _, number = place.partition(":")
    return f"{name}:{mode}:{number or 1}"


def test_there_are_enough_places() -> None:
    assert len(PLACES) >= 30, PLACES


@pytest.mark.parametrize("place", PLACES)
def test_server_killed_at(place: str, tmp_path: Path) -> None:
    """P1: acknowledged jobs are there. P2: of others nothing is. P5, P6, P14: all of them end as they should."""
    home = tmp_path / "home"
    call = [sys.executable, "-m", "tests.server.jobs.life", str(home)]
    env = {**os.environ, faults.VARIABLE: fault(place, "kill")}
    killed = subprocess.run(call, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)
    assert killed.returncode in (-9, 0), killed.stderr
    acknowledged = killed.stdout.split()
    assert killed.returncode == -9 or place in PHASES, "the point was never passed"  # a phase may be too short to see
    with driver.running(home, devices=("cpu", "mps")) as engine:
        assert_whole(engine, home)
        known = [job.id for job in engine.jobs()]
        assert set(acknowledged) <= set(known)
        assert len(known) <= len(acknowledged) + 1
        # The retry with the same key finds the job that was committed without an answer.
        ids = {submit(engine, key="first").id, submit(engine, "brief", key="second").id}
        remaining = {job.id for job in engine.jobs() if job.state != "purged"}  # a deleted job has no key
        assert remaining <= ids
        for job_id in ids | set(known):
            end_well(engine, job_id)
        assert_whole(engine, home)


def end_well(engine: Engine, job_id: str) -> None:
    """Whatever state it is in, the job ends with a model, or was deleted whole."""
    job = wait(lambda: now if (now := engine.job(job_id)).state not in states.ACTIVE else None, "an end")
    if job.state == "purged":
        assert not (engine.home.path / "jobs" / job_id).exists()
        return
    if job.state == "cancelled":
        engine.resume(job_id)
        reach(engine, job, "succeeded")
    assert engine.job(job_id).state == "succeeded"
    assert processes.of_job(job_id) == []


def assert_whole(engine: Engine, home: Path) -> None:
    """Each job's folder has its record and each record its folder; nothing else is left."""
    remaining = {job.id for job in engine.jobs() if job.state != "purged"}
    assert {path.name for path in (home / "jobs").iterdir()} == remaining
    assert list((home / "uploads").iterdir()) == list((home / "trash").iterdir()) == []
    purged = any(job.state == "purged" for job in engine.jobs())
    assert not (purged and not remaining and driver.files_with(home, driver.VOICE))


@pytest.mark.parametrize("mode", ["exception", "enospc"])
@pytest.mark.parametrize("place", PLACES)
def test_server_goes_on_after(place: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P10: an error at any point leaves a server that works, jobs in an honest state, and no half of anything."""
    home = tmp_path / "home"
    with driver.running(home, devices=("cpu", "mps")) as engine:
        before = reach(engine, submit(engine), "succeeded")
        monkeypatch.setenv(faults.VARIABLE, fault(place, mode))
        faults.forget()
        raised = None
        try:
            live(engine, lambda job_id: None)
        except (OSError, faults.InjectedError) as error:
            raised = error
        except AssertionError:  # a job failed, and says so
            failed = [job for job in engine.jobs() if job.state == "failed"]
            assert failed and failed[0].error, engine.jobs()
            assert failed[0].error.code == ("disk_full" if mode == "enospc" else "internal")
        monkeypatch.delenv(faults.VARIABLE)
        assert engine.is_supervised()
        assert raised is None or place.startswith(("submit", "store", "cancel", "resume", "purge"))
        reach(engine, submit(engine), "succeeded")
        assert engine.job(before.id).artifacts == before.artifacts
        for job in engine.jobs():
            wait(lambda job=job: engine.job(job.id).state not in states.ACTIVE, "an end")  # type: ignore[misc]
            assert engine.job(job.id).device is None
        for job in engine.jobs():
            engine.purge(job.id)  # also those whose deletion was cut short
        assert driver.files_with(home, driver.VOICE) == []
        assert list((home / "jobs").iterdir()) == []
