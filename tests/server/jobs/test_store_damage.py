"""Every way to lose, cut, age or damage the job store or a file of a job: nothing acknowledged is lost or changed.

A home with a finished, a failed, a cancelled, a deleted, a running and a queued job is made once by real workers, and
copied for each case. In the copies, the test holds the lock by which the server tells that a trainer lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from asr_lightning.durable.locks import take_lock
from asr_lightning.job_folder import processes
from asr_lightning.job_folder.history import History
from asr_lightning.server.engine import states
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.errors import HomeError, NoSuchJobError
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Event, Job
from tests.server import driver
from tests.server.driver import reach, submit
from tests.server.http.served import serving

NAMES = ("finished", "failed", "cancelled", "running", "queued")
FOREIGN = {"notes.txt": "a list", "jobs/photos/holiday.jpg": "a beach", "uploads/takes/1.wav": "a song", "trash/a": "b"}
ORPHAN = "j" + "0" * 20


@dataclass(frozen=True)
class Original:
    """The undamaged home, and what clients have seen of it."""

    home: Path
    yesterday: Path
    jobs: dict[str, Job]
    events: dict[str, list[Event]]
    deleted: str


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    folder = tmp_path_factory.mktemp("original")
    engine = Engine(driver.settings(folder / "live"))
    engine.start()
    try:
        jobs = {"finished": reach(engine, submit(engine, key="finished"), "succeeded")}
        deleted = reach(engine, submit(engine), "succeeded")
        queued = submit(engine, "slow", key="cancelled")
        yesterday = folder / "yesterday.db"
        with closing(sqlite3.connect(engine.home.store)) as source, closing(sqlite3.connect(yesterday)) as copy:
            source.backup(copy)
        reach(engine, queued, "running")
        engine.cancel(queued.id)
        jobs["cancelled"] = reach(engine, queued, "cancelled")
        jobs["failed"] = reach(engine, submit(engine, data=b"bad", key="failed"), "failed")
        engine.purge(deleted.id)
        jobs["running"] = reach(engine, submit(engine, "slow", key="running"), "running")
        jobs["queued"] = reach(engine, submit(engine, key="queued"), "queued")
        engine._supervisor.ending.set()
        engine._supervisor.wake.set()
        engine._supervisor.join()
        processes.end_all(jobs["running"].id)
        processes.reap()
        seen = {name: replace(engine.store.job(job.id), progress=None) for name, job in jobs.items()}
        events = {job.id: engine.events(job.id, limit=10_000) for job in jobs.values()}
        shutil.copytree(folder / "live", folder / "home")  # with the write-ahead log, which closing the store empties
    finally:
        engine.stop()
    return Original(folder / "home", yesterday, seen, events, deleted.id)


@dataclass(frozen=True)
class Case:
    """A copy of the home that may be damaged."""

    home: Path
    original: Original

    def file(self, job: str, name: str) -> Path:
        return self.home / "jobs" / self.original.jobs[job].id / name

    @property
    def store(self) -> Path:
        return self.home / "state.db"

    def sql(self, statement: str) -> None:
        with closing(sqlite3.connect(self.store)) as connection, connection:
            connection.executescript(statement)


@pytest.fixture
def case(original: Original, tmp_path: Path) -> Iterator[Case]:
    case = Case(tmp_path / "home", original)
    shutil.copytree(original.home, case.home)
    for name, text in FOREIGN.items():
        (case.home / name).parent.mkdir(exist_ok=True)
        (case.home / name).write_text(text)
        (case.home / name).chmod(0o644)
    orphan = case.home / "jobs" / ORPHAN / "artifacts" / "model.tar.gz"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"the only copy of a model")
    lock = take_lock(case.file("running", "worker.lock"))
    assert lock is not None
    yield case
    os.close(lock)


@contextlib.contextmanager
def opened(case: Case) -> Iterator[Engine]:
    """An engine that has done what it does at its start, and starts no worker."""
    engine = Engine(driver.settings(case.home))
    try:
        yield engine
    finally:
        engine.stop()


def assert_nothing_is_lost(case: Case, approximate: tuple[str, ...] = ()) -> None:
    """Jobs, their events and their keys are as clients have seen them; files that are not the server's are untouched.

    Args:
        case: The damaged home.
        approximate: Jobs whose times and events were nowhere any more.
    """
    with opened(case) as engine:
        assert {job.id for job in engine.jobs()} - {case.original.deleted} == set(case.original.events)
        for name, before in case.original.jobs.items():
            after = replace(engine.job(before.id), progress=None, damage=())
            seen, events = case.original.events[before.id], engine.events(before.id, limit=10_000)
            assert submit(engine, before.spec.model, b"bad" if name == "failed" else driver.VOICE, key=name) == after
            if name in approximate:
                assert (after.ended_at is None) == (before.ended_at is None)
                times = {"started_at": before.started_at, "ended_at": before.ended_at}
                assert replace(after, **times) == before
                assert all(event in seen or event.seq > seen[-1].seq for event in events)
            else:
                assert after == before
                assert events[: len(seen)] == seen
                assert all(event.seq > seen[-1].seq and event.data["rebuilt"] for event in events[len(seen) :])
        numbers = {job_id: engine.events(job_id, limit=10_000) for job_id in case.original.events}
    assert_foreign_files_are_untouched(case)
    with opened(case) as engine:  # once more: what was repaired stays repaired
        assert {job_id: engine.events(job_id, limit=10_000) for job_id in case.original.events} == numbers


def assert_foreign_files_are_untouched(case: Case) -> None:
    for name, text in FOREIGN.items():
        assert (case.home / name).read_text() == text
        assert stat.S_IMODE((case.home / name).stat().st_mode) == 0o644
    kept = driver.files_with(case.home, b"the only copy of a model")
    assert len(kept) == 1 and kept[0].is_relative_to(case.home / "quarantine")


def lose(case: Case) -> None:
    for path in case.home.glob("state.db*"):
        path.unlink()


def truncate(case: Case) -> None:
    os.truncate(case.store, 0)


def empty(case: Case) -> None:
    lose(case)
    case.sql("VACUUM")


def garble(case: Case) -> None:
    lose(case)
    case.store.write_bytes(os.urandom(8192))


def garble_a_page(case: Case) -> None:
    settle(case)
    with case.store.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(os.urandom(4096))


def cut(case: Case) -> None:
    settle(case)
    os.truncate(case.store, case.store.stat().st_size // 2)


def cut_log(case: Case) -> None:
    log = case.home / "state.db-wal"
    os.truncate(log, log.stat().st_size // 2)


def garble_log(case: Case) -> None:
    with (case.home / "state.db-wal").open("r+b") as file:
        file.seek(40)
        file.write(os.urandom(8192))


def lose_log(case: Case) -> None:
    (case.home / "state.db-wal").unlink()


def garble_index_of_log(case: Case) -> None:
    (case.home / "state.db-shm").write_bytes(os.urandom(32768))


def age(case: Case) -> None:
    lose(case)
    shutil.copy(case.original.yesterday, case.store)


def age_but_not_the_log(case: Case) -> None:
    shutil.copy(case.original.yesterday, case.store)


def folder_in_place(case: Case) -> None:
    lose(case)
    case.store.mkdir()
    (case.store / "something").write_text("else")


def folder_in_place_of_log(case: Case) -> None:
    settle(case)
    (case.home / "state.db-wal").mkdir()


def settle(case: Case) -> None:
    """Empty the write-ahead log into the store."""
    case.sql("PRAGMA wal_checkpoint(TRUNCATE)")


def sql(statement: str) -> Callable[[Case], None]:
    def damage(case: Case) -> None:
        case.sql(statement)

    return damage


DAMAGES: dict[str, Callable[[Case], None]] = {
    "nothing": lambda case: None,
    "store lost": lose,
    "store truncated": truncate,
    "store empty": empty,
    "store garbled": garble,
    "page garbled": garble_a_page,
    "store cut": cut,
    "log cut": cut_log,
    "log garbled": garble_log,
    "log lost": lose_log,
    "index of log garbled": garble_index_of_log,
    "store of yesterday": age,
    "store of yesterday with the log of today": age_but_not_the_log,
    "folder in place of store": folder_in_place,
    "folder in place of log": folder_in_place_of_log,
    "table of jobs lost": sql("DROP TABLE job"),
    "table of events lost": sql("DROP TABLE event"),
    "table of keys lost": sql("DROP TABLE key"),
    "index lost": sql("DROP INDEX one_job_a_device"),
    "another database": sql(
        "DROP TABLE job; DROP TABLE key; DROP TABLE event; CREATE TABLE x (y); PRAGMA user_version=0"
    ),
    "rows lost": sql("DELETE FROM job"),
    "events lost": sql("DELETE FROM event"),
    "keys lost": sql("DELETE FROM key"),
    "specification damaged": sql("UPDATE job SET spec = '{'"),
    "artifacts damaged": sql("UPDATE job SET artifacts = '[' WHERE state = 'succeeded'"),
    "state unknown": sql("UPDATE job SET state = 'flying'"),
    "artifact unknown": sql("UPDATE job SET artifacts = '{\"a\\u0000b\": \"\"}' WHERE state = 'succeeded'"),
    "text garbled": sql("UPDATE job SET spec = CAST(x'7bff7d' AS TEXT)"),
    "id garbled": sql("UPDATE job SET id = CAST(x'6aff' AS TEXT) WHERE state = 'succeeded'"),
    "id of another kind": sql("UPDATE job SET id = CAST(x'006a' AS TEXT) WHERE state = 'succeeded'"),
    "events garbled": sql("UPDATE event SET data = CAST(x'7bff7d' AS TEXT) WHERE seq > 1"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_nothing_is_lost_with_a_damaged_store(case: Case, damage: str) -> None:
    DAMAGES[damage](case)
    assert_nothing_is_lost(case)


FILES = ("request.json", "history.jsonl", "exit.json", "intake.json", "progress.json", "assignment.json")


def spoil(path: Path, damage: str) -> None:
    """Damage a file, and do nothing if the job has none."""
    if not path.exists():
        return
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "garbled":
        path.write_bytes(bytes(byte ^ 0x5A for byte in content))
    elif damage == "folder":
        path.mkdir()
    elif damage == "pipe":
        os.mkfifo(path)


@pytest.mark.parametrize("store", ["nothing", "store lost", "store of yesterday"])
@pytest.mark.parametrize("damage", ["lost", "cut", "garbled", "folder", "pipe"])
@pytest.mark.parametrize("file", FILES)
def test_nothing_is_lost_with_a_damaged_file(case: Case, file: str, damage: str, store: str) -> None:
    """One file of every job is damaged, with a store that is sound, lost or old."""
    DAMAGES[store](case)
    for name in NAMES:
        spoil(case.file(name, file), damage)
    unknown = file == "history.jsonl" and store != "nothing"
    assert_nothing_is_lost(case, approximate=NAMES if unknown else ())


def test_a_store_of_a_newer_version_is_refused(case: Case) -> None:
    case.sql("PRAGMA user_version=99")
    before = case.store.read_bytes()
    with pytest.raises(HomeError, match=r"state\.db.*version 99.*newer"):
        Engine(driver.settings(case.home))
    assert case.store.read_bytes() == before
    for path in case.home.glob("state.db*"):  # as the message says
        path.rename(case.home.parent / path.name)
    assert_nothing_is_lost(case)


@pytest.mark.parametrize("damaged", ["'['", "CAST(x'ff' AS TEXT)"])
def test_a_row_damaged_while_a_server_runs_hides_one_job_until_the_next_start(case: Case, damaged: str) -> None:
    running = case.original.jobs["running"]
    with opened(case) as engine:
        case.sql(f"UPDATE job SET dataset = {damaged} WHERE id = '{running.id}'")
        assert {job.id for job in engine.jobs()} == {case.original.deleted, *case.original.events} - {running.id}
        with pytest.raises(NoSuchJobError):
            engine.job(running.id)
    assert_nothing_is_lost(case)


@pytest.mark.parametrize("store", ["nothing", "store lost"])
def test_a_number_that_the_store_cannot_hold_stops_no_start(case: Case, store: str) -> None:
    DAMAGES[store](case)
    step = {"seq": 10**20, "time": "", "kind": "state", "data": {}, "changed": {}}
    with case.file("finished", "history.jsonl").open("a") as file:
        file.write(f"{json.dumps(step)}\n")
    assert_nothing_is_lost(case)


def test_a_job_with_damaged_counts_is_deleted_like_any_other(case: Case) -> None:
    case.sql("UPDATE job SET dataset = '{}' WHERE state = 'succeeded'")
    with opened(case) as engine:
        receipt = engine.purge(case.original.jobs["finished"].id)
        assert receipt.dataset_sha256 is None and receipt.deleted


def test_serve_names_what_it_could_not_use(home: Path) -> None:
    model = Home(home).job(ORPHAN) / "artifacts" / "model.tar.gz"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"the only copy of a model")
    for said in (f"jobs/{ORPHAN} was moved to {home}/quarantine/{ORPHAN}.", f"{home}/quarantine holds a file"):
        with serving(home, "--device", "cpu", "--no_tensorboard") as process:
            assert said in process.said


def restore_receipts(case: Case) -> None:
    (case.home / "receipts").rename(case.home / "deletions.jsonl")


def test_a_deleted_job_stays_deleted_and_a_folder_put_back_is_kept(case: Case) -> None:
    """With the store of yesterday, in which the job has a model; without a store; without a receipt."""
    deleted = case.original.deleted
    age(case)
    with opened(case) as engine:
        assert engine.job(deleted).state == "purged"
        (receipt,) = [line for line in (case.home / "deletions.jsonl").read_text().splitlines() if "begun" in line]
        assert json.loads(receipt)["id"] == deleted and json.loads(receipt)["artifacts"]
    receipts = case.home / "deletions.jsonl"
    for damage in (lambda case: receipts.rename(case.home / "receipts"), restore_receipts, lose):
        shutil.copytree(case.file("finished", ""), case.home / "jobs" / deleted)
        damage(case)
        with opened(case) as engine:
            assert not (case.home / "jobs" / deleted).exists()
            assert any(deleted in note and "was put back" in note for note in engine.notes)
    assert len(list((case.home / "quarantine").glob(f"{deleted}.*/artifacts/model.tar.gz"))) == 3


def test_a_history_alone_deletes_nothing(case: Case) -> None:
    """The store says that the job succeeded, and a damaged history that it was deleted."""
    job = case.original.jobs["finished"]
    line = {"seq": 10**6, "time": job.created_at, "kind": "purged", "data": {}, "changed": {"state": "purged"}}
    case.file("finished", "history.jsonl").write_text(json.dumps(line) + "\n")
    with opened(case):
        assert len(list((case.home / "quarantine").glob(f"{job.id}.*/artifacts/model.tar.gz"))) == 1


def test_a_refused_job_is_not_taken_up_by_the_next_start(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server dies while it undoes a submission that the store refused."""
    engine = Engine(driver.settings(home))
    try:
        monkeypatch.setattr(engine.store, "add", lambda *_: 1 / 0)
        monkeypatch.setattr(engine.home, "discard", lambda _: os._exit)  # the process ends before it is deleted
        with pytest.raises(ZeroDivisionError):
            submit(engine)
    finally:
        engine.stop()
    with driver.running(home) as engine:
        assert engine.jobs() == [] and engine.notes == ()
        assert list((home / "jobs").iterdir()) == list((home / "uploads").iterdir()) == []


def test_a_history_that_cannot_be_written_stops_no_job(home: Path) -> None:
    """The next start writes it anew."""
    with driver.running(home) as engine:
        job = submit(engine)
        history = home / "jobs" / job.id / "history.jsonl"
        history.rename(history.with_name("aside"))
        history.mkdir()
        events = engine.events(reach(engine, job, "succeeded").id)
    with driver.running(home) as engine:
        assert [step.seq for step in History.read(history.parent).steps] == [event.seq for event in events]
        assert History.read(history.parent).whole
    for path in home.glob("state.db*"):
        path.unlink()
    with driver.running(home) as engine:
        assert engine.events(job.id)[: len(events)] == events


def test_the_task_of_its_trainer_tells_of_a_job_at_last(case: Case) -> None:
    """Store, request and history are gone: the model, its scores and a training that runs are not."""
    lose(case)
    for name in ("finished", "running"):
        for file in ("request.json", "history.jsonl"):
            case.file(name, file).write_bytes(b"\0")
    with opened(case) as engine:
        for name in ("finished", "running"):
            before = case.original.jobs[name]
            after = engine.job(before.id)
            for what in ("state", "attempt", "spec", "artifacts", "metrics", "dataset", "device"):
                assert getattr(after, what) == getattr(before, what), what


@pytest.mark.parametrize("store", ["nothing", "store lost"])
def test_what_cannot_be_taken_up_is_kept_and_named(case: Case, store: str) -> None:
    """What tells of a finished job is gone, and so is the store: its model is still there."""
    DAMAGES[store](case)
    for name in ("request.json", "history.jsonl", "assignment.json"):
        case.file("finished", name).write_bytes(b"\0")
    with opened(case) as engine:
        finished = case.original.jobs["finished"]
        if store == "nothing":
            assert replace(engine.job(finished.id), progress=None) == finished
        else:
            kept = list((case.home / "quarantine").glob(f"{finished.id}.*/artifacts/model.tar.gz"))
            assert len(kept) == 1
            assert any(finished.id in note and "request.json" in note for note in engine.notes)
        assert any(ORPHAN in note and "quarantine" in note for note in engine.notes)
        assert any("jobs/photos" in note for note in engine.notes)
        assert engine.job(case.original.jobs["running"].id).state in states.TRAINING
