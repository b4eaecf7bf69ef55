"""Submit, cancel, resume, delete, kill trainers and restart in any order, and compare the jobs with the promises."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import data, sampled_from

from asr_lightning.job_folder import processes
from asr_lightning.server.engine import states
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.errors import BusyError, WrongStateError
from tests.server import driver
from tests.server.driver import submit, wait

MODELS = ("quick", "brief", "dies-once", "oom", "leaver", "slow")


class Jobs(RuleBasedStateMachine):
    """One engine and what is known of its jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp()) / "home"
        self.engine = self.start()
        self.known: dict[str, str] = {}  # job by key
        self.killed: set[str] = set()
        self.final: dict[str, tuple[str, int]] = {}  # a terminal state and its attempt never change

    def start(self) -> Engine:
        engine = Engine(driver.settings(self.home, devices=("cpu", "mps"), queue_cap=4, grace_s=0.1))
        engine.start()
        return engine

    @initialize()
    def empty(self) -> None:
        assert self.engine.jobs() == []

    @rule(model=sampled_from(MODELS), source=sampled_from(["v1", "v1", "seed"]))
    def submit(self, model: str, source: str) -> None:
        key = f"key-{len(self.known)}"
        active = len(self.engine.store.jobs(states.ACTIVE))
        try:
            job = submit(self.engine, model, key=key, source=source)
        except BusyError:
            assert active >= (1 if source == "seed" else 4)
        else:
            self.known[key] = job.id

    @precondition(lambda self: self.known)
    @rule(data=data())
    def submit_again(self, data: Any) -> None:
        key = data.draw(sampled_from(sorted(self.known)))
        job = self.engine.job(self.known[key])
        if job.state != "purged":  # its key was deleted with it
            assert submit(self.engine, job.spec.model, key=key).id == job.id

    @precondition(lambda self: self.known)
    @rule(data=data())
    def cancel(self, data: Any) -> None:
        job_id = data.draw(sampled_from(sorted(self.known.values())))
        assert self.engine.cancel(job_id).state not in states.TRAINING

    @precondition(lambda self: self.known)
    @rule(data=data())
    def resume(self, data: Any) -> None:
        job_id = data.draw(sampled_from(sorted(self.known.values())))
        before = self.engine.job(job_id).state
        try:
            self.engine.resume(job_id)
        except WrongStateError as error:
            assert before not in states.RESUMABLE, error
        else:
            self.final.pop(job_id, None)

    @precondition(lambda self: self.known)
    @rule(data=data())
    def purge(self, data: Any) -> None:
        job_id = data.draw(sampled_from(sorted(self.known.values())))
        try:
            self.engine.purge(job_id)
        except WrongStateError as error:
            assert error.job.state in states.ACTIVE
        else:
            self.final.pop(job_id, None)
            assert not (self.home / "jobs" / job_id).exists()

    @precondition(lambda self: self.known)
    @rule(data=data())
    def kill_worker(self, data: Any) -> None:
        job_id = data.draw(sampled_from(sorted(self.known.values())))
        self.killed.add(job_id)
        processes.end_all(job_id)

    @rule(lose_the_store=sampled_from([False, False, True]))
    def restart(self, lose_the_store: bool) -> None:
        states_by_id = {job.id: job.state for job in self.engine.jobs()}
        self.engine.stop()
        if lose_the_store:
            for path in self.home.glob("state.db*"):
                path.unlink()
            purged = {job_id for job_id, state in states_by_id.items() if state == "purged"}
            self.known = {key: job_id for key, job_id in self.known.items() if job_id not in purged}
        self.engine = self.start()
        assert set(self.known.values()) <= {job.id for job in self.engine.jobs()}

    @invariant()
    def holds(self) -> None:
        jobs = self.engine.jobs()
        held = [job.device for job in jobs if job.device]
        assert len(held) == len(set(held))
        for job in jobs:
            if job.id in self.final and job.state != "purged":
                assert self.final[job.id] == (job.state, job.attempt)
            if job.state in states.TERMINAL:
                self.final[job.id] = (job.state, job.attempt)
            if job.state == "succeeded":
                assert job.artifacts and job.spec.model != "oom"
            if job.state == "failed":
                assert job.error and (job.spec.model == "oom" or job.id in self.killed)  # an intake killed three times

    def teardown(self) -> None:
        """In the end every job has ended, and its events tell a path that the states allow."""
        for job in self.engine.store.jobs(states.ACTIVE):
            if job.spec.model == "slow":
                self.engine.cancel(job.id)
        wait(lambda: not self.engine.store.jobs(states.ACTIVE), "every job to end")
        self.holds()
        for job in self.engine.jobs():
            driver.assert_allowed(self.engine.events(job.id, limit=10_000))
            assert processes.of_job(job.id) == []
        self.engine.stop()
        shutil.rmtree(self.home.parent)


def test_any_order_of_calls_keeps_the_promises() -> None:
    checks = [HealthCheck.too_slow]
    run_state_machine_as_test(
        Jobs, settings=settings(max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=checks)
    )
