"""``--retention`` with clocks that are wrong, and with jobs that a rebuilt store knows by their folders."""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine import clock, states
from asr_lightning.server.engine.clock import Clock
from asr_lightning.server.engine.deletion import MOST_AT_ONCE, Retention
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import V1, Job, iso
from asr_lightning.server.engine.store import Store
from tests.server.driver import reach, running, submit

DAY = timedelta(days=1)
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Watch(datetime):
    """The clock of the machine, which tests set."""

    time = START

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return Watch.time


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> type[Watch]:
    monkeypatch.setattr(clock, "datetime", Watch)
    Watch.time = START
    return Watch


class Server:
    """A home with jobs that have ended, and what its servers delete."""

    def __init__(self, path: Path, days: float = 30) -> None:
        self.home, self.retention_s = Home(path), days * DAY.total_seconds()
        self.store = Store(self.home.store)
        self.restart()

    def restart(self) -> None:
        self.retention = Retention(self.home, self.store, self.retention_s)
        self.retention.sweep()

    def ended(self, name: str, at: datetime) -> None:
        """A job that ended then."""
        times = {"created_at": iso(at), "ended_at": iso(at)}
        job = Job(id=name, state=states.FAILED, source=V1, spec=JobSpec("quick"), artifacts={}, **times)
        self.home.job(name).mkdir()
        self.store.add(job, None, "", 100)

    def pass_time(self, days: float) -> None:
        """So much time passes while the server runs, and the clock is right."""
        for _ in range(int(days * 2)):
            Watch.time += DAY / 2
            self.retention.sweep()

    def set_clock(self, time: datetime) -> None:
        Watch.time = time
        self.retention.sweep()

    @property
    def kept(self) -> set[str]:
        return {path.name for path in self.home.jobs()}


@pytest.fixture
def server(tmp_path: Path) -> Server:
    server = Server(tmp_path / "home")
    server.ended("old", START - 20 * DAY)
    server.ended("new", START)
    return server


def test_a_right_clock_deletes_in_time(server: Server) -> None:
    server.pass_time(9.5)
    assert server.kept == {"old", "new"}
    server.pass_time(1)
    assert server.kept == {"new"}
    server.pass_time(20)
    assert server.kept == set()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("days", [40, 4000])
def test_a_clock_set_forward_deletes_nothing(
    days: int, restarted: bool, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """While a server runs, and while none does: and the time that passes afterwards counts."""
    caplog.set_level(logging.INFO)
    if restarted:
        Watch.time = START + days * DAY
        server.restart()
    else:
        server.set_clock(START + days * DAY)
    assert server.kept == {"old", "new"}
    assert "That time does not count for --retention" in caplog.text
    server.restart()
    server.pass_time(9)
    assert server.kept == {"old", "new"}
    server.pass_time(2)
    assert server.kept == {"new"}


def test_a_clock_set_forward_and_right_again_changes_nothing(server: Server) -> None:
    server.set_clock(START + 400 * DAY)
    server.pass_time(2)
    server.ended("from the future", Watch.time)
    server.set_clock(START + 2 * DAY)
    server.restart()
    server.pass_time(7)
    assert server.kept == {"old", "new", "from the future"}
    server.pass_time(2)
    assert server.kept == {"new", "from the future"}


def test_a_clock_set_back_deletes_nothing_until_it_is_right(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.set_clock(datetime(1970, 1, 1, tzinfo=UTC))
    server.restart()
    server.pass_time(100)
    assert server.kept == {"old", "new"}
    assert "no old job is deleted until it is right" in caplog.text
    server.set_clock(START + DAY)
    server.pass_time(8)
    assert server.kept == {"old", "new"}
    server.pass_time(2)
    assert server.kept == {"new"}


def test_without_its_file_the_times_of_the_jobs_are_what_was_seen(server: Server) -> None:
    """Also in a home of an earlier version."""
    (server.home.path / clock.FILE).write_text("{")
    Watch.time = START + 400 * DAY
    server.restart()
    assert server.kept == {"old", "new"}


@pytest.mark.parametrize("ended_at", ["2126-01-01T00:00:00.000+00:00", "yesterday", "2026-01-01T00:00:00"])
def test_a_time_that_cannot_be_right_deletes_nothing_and_is_named(
    ended_at: str, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with server.store.writing() as connection:
        connection.execute("UPDATE job SET ended_at = ? WHERE id = 'old'", [ended_at])
    server.restart()
    server.pass_time(60)
    assert server.kept == {"old"}
    assert f"job old ended at {ended_at}, which cannot be right" in caplog.text


def test_one_sweep_deletes_few_jobs_the_oldest_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    server = Server(tmp_path / "home")
    for number in range(MOST_AT_ONCE + 2):
        server.ended(f"job-{number}", START - (100 - number) * DAY)
    server.retention.sweep()
    assert server.kept == {f"job-{MOST_AT_ONCE}", f"job-{MOST_AT_ONCE + 1}"}
    assert f"--retention deletes {MOST_AT_ONCE + 2} jobs" in caplog.text
    server.retention.sweep()
    assert server.kept == set()


def test_one_job_that_cannot_be_deleted_holds_up_no_other(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path.name == "old":
            raise PermissionError(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    server.pass_time(31)
    assert server.kept == {"old"}


def test_clock_forgets_nothing_over_a_restart(tmp_path: Path) -> None:
    look = Clock(tmp_path / "clock.json", None, 30 * DAY)
    assert look.look()
    Watch.time += 10 * DAY
    assert Clock(tmp_path / "clock.json", None, 30 * DAY).look()
    kept = json.loads((tmp_path / "clock.json").read_text())
    assert kept == {"newest": iso(START + 10 * DAY), "gaps": [[iso(START), iso(START + 10 * DAY)]]}
    again = Clock(tmp_path / "clock.json", None, 30 * DAY)
    assert again.look() and again.age(START - DAY) == DAY


@pytest.mark.parametrize("history", ["kept", "lost"])
def test_rebuilt_jobs_are_deleted_too(history: str, home: Path, watch: type[Watch]) -> None:
    """Their end is in their history; without it, the file that proves the end says when it was written."""
    watch.time = datetime.now(UTC)
    with running(home) as engine:
        job = reach(engine, submit(engine), "succeeded")
    for path in home.glob("state.db*"):
        path.unlink()
    if history == "lost":
        (home / "jobs" / job.id / "history.jsonl").unlink()
        os.utime(home / "jobs" / job.id / "exit.json", (1_700_000_000, 1_700_000_000))
    with running(home) as engine:
        retention = Retention(engine.home, engine.store, DAY.total_seconds())
        retention.sweep()
        if history == "kept":
            assert engine.job(job.id).ended_at == job.ended_at
            for _ in range(2):
                watch.time += 0.6 * DAY
                retention.sweep()
        assert engine.job(job.id).state == "purged"
        assert not (home / "jobs" / job.id).exists()
