"""The path of a job through the engine, with real processes, locks and files (P3 to P9 in docs/server_promises.md)."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from asr_lightning.job_folder import processes
from asr_lightning.job_folder.failure import Failure
from asr_lightning.job_folder.spec import JobSpec, SpecError
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.errors import BusyError, HomeError, KeyConflictError, NoSuchJobError, WrongStateError
from tests.server import driver
from tests.server.driver import lives, reach, running, states_in_events, submit, wait

LIFE = ["created", "validating", "queued", "preparing", "running", "evaluating", "packaging", "succeeded"]


def test_job_goes_through_its_stages(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine), "succeeded")
        # A phase shorter than a look may be missed, but none comes twice or out of order.
        passed = states_in_events(engine, job)
        assert [state for state in LIFE if state in passed] == passed
        assert {"created", "validating", "queued", "preparing", "succeeded"} <= set(passed)
        assert [event.seq for event in engine.events(job.id)] == list(range(1, len(engine.events(job.id)) + 1))
        assert job.metrics == {"before": 0.5, "after": 0.25, "verdict": "better"}
        assert set(job.artifacts) == {"model.tar.gz", "report.html", "report.json"}
        assert job.device is None
        assert job.started_at and job.ended_at and job.created_at <= job.started_at <= job.ended_at
        assert not (engine.folder(job.id) / "input" / "archive.tar.gz").exists()
        assert oct(home.stat().st_mode)[-3:] == "700"


def test_archive_is_kept_on_request(home: Path) -> None:
    with running(home, keep_archives=True) as engine:
        job = reach(engine, submit(engine), "succeeded")
        assert (engine.folder(job.id) / "input" / "archive.tar.gz").read_bytes() == driver.VOICE


def test_refused_data_fail_the_job_with_the_reason(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine, data=b"bad"), "failed")
        assert job.error == Failure("dataset_invalid", "no clips", "data")
        assert job.attempt == 0


def test_newest_first_by_pages_and_by_state(home: Path) -> None:
    with running(home) as engine:
        made = [submit(engine, data=b"bad").id for _ in range(3)]
        for job_id in made:
            reach(engine, engine.job(job_id), "failed")
        assert [job.id for job in engine.jobs()] == made[::-1]
        assert [job.id for job in engine.jobs(limit=1, after=made[2])] == [made[1]]
        assert engine.jobs(state="succeeded") == []
        assert len(set(made)) == 3


def test_unknown_ids_are_refused_everywhere(home: Path) -> None:
    with running(home) as engine:
        for call in (engine.job, engine.cancel, engine.resume, engine.purge, engine.folder, engine.events):
            with pytest.raises(NoSuchJobError):
                call("../jobs")


def test_spec_is_bounded() -> None:
    for field in (
        {"epochs": 0},
        {"epochs": 101},
        {"seed": -1},
        {"language": "de; rm"},
        {"language": "../x"},
        {"epochs": 3.5},
        {"seed": True},
    ):
        with pytest.raises(SpecError) as caught:
            JobSpec("quick", **field)  # type: ignore[arg-type]
        assert caught.value.param in field


def test_p3_same_key_makes_one_job(home: Path) -> None:
    """Twenty threads at once, one key."""
    with running(home, queue_cap=50) as engine:
        ids: list[str] = []
        threads = [threading.Thread(target=lambda: ids.append(submit(engine, key="k").id)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(ids) == 20
        assert len(set(ids)) == len(engine.jobs()) == len(list((home / "jobs").iterdir())) == 1
        with pytest.raises(KeyConflictError):
            submit(engine, data=b"other words", key="k")
        wait(lambda: not list((home / "uploads").iterdir()), "no upload to be left")


def test_seed_route_admits_one_training_and_v1_queues_up_to_a_cap(home: Path) -> None:
    with running(home, queue_cap=2) as engine:
        first = submit(engine, "slow")
        with pytest.raises(BusyError) as caught:
            submit(engine, source="seed")
        assert caught.value.current == first.id
        submit(engine)
        with pytest.raises(BusyError):
            submit(engine)
        assert len(list((home / "jobs").iterdir())) == 2


def test_p4_one_training_a_device(home: Path) -> None:
    """Six jobs on two devices: never more than two, and both are used."""
    with running(home, devices=("cpu", "cuda:0")) as engine:
        jobs = [submit(engine) for _ in range(6)]
        most = 0

        def done() -> bool:
            nonlocal most
            held = [job.device for job in engine.jobs() if job.device]
            assert len(held) == len(set(held))
            most = max(most, len(held))
            return all(engine.job(job.id).state == "succeeded" for job in jobs)

        wait(done, "six jobs")
        assert {life[2] for job in jobs for life in lives(engine, job.id)} == {"cpu", "cuda:0"}
        assert most == 2


def test_p4_second_server_is_refused(home: Path) -> None:
    with running(home), pytest.raises(HomeError, match="another server uses"):
        Engine(driver.settings(home))


def test_p4_device_lock_is_the_trainers(home: Path) -> None:
    """Whoever else takes a device, the job waits for it."""
    with running(home) as engine:
        lock = engine.home.lock("locks/cpu.lock")
        assert lock is not None
        job = submit(engine)
        reach(engine, job, "queued")
        time.sleep(0.1)
        assert engine.job(job.id).state == "queued"
        os.close(lock)
        reach(engine, job, "succeeded")


def test_p5_server_is_stopped_and_the_trainer_goes_on(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine, "slow"), "running")
        engine.stop()
        time.sleep(0.05)
        again = Engine(driver.settings(home, models={}))
        again.start()
        assert again.job(job.id).state == "running"
        assert len(lives(again, job.id)) == 1
        (again.folder(job.id) / "cancel").touch()  # the fake trainer's way to end at once
        reach(again, job, "queued", "preparing", "running", "interrupted")
        again.cancel(job.id)
        reach(again, job, "cancelled")
        again.stop()
        engine.__init__(driver.settings(home))  # type: ignore[misc]
        engine.start()


@pytest.mark.parametrize("place", ["running", "stopped"])
def test_p6_death_of_a_trainer_is_never_success(home: Path, place: str) -> None:
    """Killed with the server up, and with it down: the job goes on from its checkpoint, and its model is the same."""
    with running(home) as engine:
        undisturbed = reach(engine, submit(engine, "dies-once"), "succeeded") if place == "running" else None
        job = reach(engine, submit(engine, "slow"), "running")
        if place == "stopped":
            engine.stop()
        for process in processes.of_job(job.id):
            process.kill()
        if place == "stopped":
            time.sleep(0.05)
            engine.__init__(driver.settings(home))  # type: ignore[misc]
            engine.start()
        wait(lambda: engine.job(job.id).attempt == 2, "the second attempt")
        reach(engine, job, "running")
        passed = states_in_events(engine, job)
        assert passed[passed.index("interrupted") + 1] == "queued"
        assert "succeeded" not in passed
        if undisturbed:
            assert undisturbed.attempt == 2
            assert undisturbed.resumed_from == "step-4"


def test_p6_death_after_the_last_checkpoint_and_before_the_exit_record(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine, "dies-packaged"), "succeeded")
        assert "interrupted" in states_in_events(engine, job)
        assert job.attempt == 2


def test_p6_exit_record_without_an_artifact_is_no_success(home: Path) -> None:
    with running(home, auto_resumes=1) as engine:
        job = reach(engine, submit(engine, "bare"), "interrupted")
        assert job.attempt == 2  # one by itself
        assert job.error is not None and job.error.code == "interrupted"
        assert engine.resume(job.id).state == "queued"


def test_p6_artifact_that_differs_from_the_exit_record_is_no_success(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine), "succeeded")
        engine.stop()
        (engine.home.job(job.id) / "artifacts" / "model.tar.gz").write_bytes(b"half")
        (home / "state.db").unlink()
        engine.__init__(driver.settings(home))  # type: ignore[misc]
        engine.start()
        assert engine.job(job.id).state == "interrupted"


def test_p6_automatic_attempts_are_bounded(home: Path) -> None:
    with running(home, auto_resumes=2) as engine:
        job = reach(engine, submit(engine, "dies-always"), "interrupted")
        assert [int(life[0]) for life in lives(engine, job.id)] == [1, 2, 3]
        assert job.device is None
        reach(engine, submit(engine), "succeeded")  # the device is free


def test_exit_record_of_an_earlier_attempt_counts_for_nothing(home: Path) -> None:
    with running(home, auto_resumes=0) as engine:
        job = reach(engine, submit(engine, "oom"), "failed")
        assert job.error is not None and job.error.code == "oom"  # P11: named, with advice
        assert "smaller model" in job.error.message
        engine.resume(job.id)
        again = reach(engine, job, "failed")
        assert again.attempt == 2
        assert states_in_events(engine, job).count("failed") == 2


@pytest.mark.parametrize(
    ("model", "state"),
    [("slow", "created"), ("slow", "preparing"), ("slow", "running"), ("stubborn", "running"), ("parent", "running")],
)
def test_p8_cancel_ends_everything_and_frees_the_device(home: Path, model: str, state: str) -> None:
    with running(home) as engine:
        job = submit(engine, model)
        if state != "created":
            reach(engine, job, state, "running")
        if model in ("stubborn", "parent"):
            wait(lambda: len(processes.of_job(job.id)) == 2, "the grandchild")
        started = time.monotonic()
        assert engine.cancel(job.id).state in ("cancelling", "cancelled")
        assert engine.cancel(job.id).state in ("cancelling", "cancelled")  # a second one changes nothing
        reach(engine, job, "cancelled")
        assert time.monotonic() - started < engine.settings.grace_s + 5
        assert processes.of_job(job.id) == []
        assert engine.job(job.id).device is None
        reach(engine, submit(engine), "succeeded")


def test_p8_cancel_while_data_are_read_and_while_waiting(home: Path) -> None:
    with running(home) as engine:
        reading = reach(engine, submit(engine, data=b"stuck"), "validating")
        waiting = submit(engine)
        engine.cancel(waiting.id)
        reach(engine, waiting, "cancelled")
        engine.cancel(reading.id)
        reach(engine, reading, "cancelled")
        assert engine.cancel(reading.id).state == "cancelled"
        assert engine.cancel(reach(engine, submit(engine), "succeeded").id).state == "succeeded"


def test_what_a_trainer_leaves_behind_is_killed_before_the_device_is_given_on(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine, "leaver"), "succeeded")
        assert processes.of_job(job.id) == []


def test_paused_trainer_is_slow_and_not_dead(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine, "slow"), "running")
        (process,) = processes.of_job(job.id)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        assert engine.job(job.id).attempt == 1
        process.send_signal(signal.SIGCONT)


def test_cancelled_job_is_resumed_from_its_checkpoint(home: Path) -> None:
    with running(home) as engine:
        job = reach(engine, submit(engine, "slow"), "running")
        wait(lambda: (engine.folder(job.id) / "run" / "checkpoint.json").exists(), "a checkpoint")
        with pytest.raises(WrongStateError):
            engine.resume(job.id)
        engine.cancel(job.id)
        reach(engine, job, "cancelled")
        assert engine.resume(job.id).state == "queued"
        again = reach(engine, job, "running")
        assert again.attempt == 2
        assert again.resumed_from not in (None, "step-0")


def test_timeouts_end_a_worker_and_say_so(home: Path) -> None:
    with running(home, max_wall_s=0.1, inspection_s=0.1) as engine:
        for job in (submit(engine, "slow"), submit(engine, data=b"stuck")):
            error = reach(engine, job, "failed").error
            assert error is not None and error.code == "timeout"
            assert processes.of_job(job.id) == []


def test_p9_artifacts_are_whole_or_absent(home: Path) -> None:
    """An open artifact stays whole although its job is deleted."""
    with running(home) as engine:
        job = reach(engine, submit(engine), "succeeded")
        with (engine.folder(job.id) / "artifacts" / "model.tar.gz").open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            engine.purge(job.id)
            assert len(file.read()) == size
        assert engine.job(job.id).artifacts == {}
