"""``python -m asr_lightning run-job`` as the server starts it."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from asr_lightning.cli.run_job import spec_of
from asr_lightning.job_folder.assignment import Assignment
from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.reports.build import build
from asr_lightning.reports.study import Candidate, Study
from asr_lightning.run.outcome import Cost, Outcome
from asr_lightning.run.spec import RunSpec
from asr_lightning.scoring.rates import Pair
from tests.server.trainer.jobs import read


def test_it_holds_its_lock_for_life(job: Path, undisturbed: Path) -> None:
    lock = os.open(job / "worker.lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    env = {"PATH": os.environ["PATH"], "ASR_LOCK_FD": str(lock), "TMPDIR": str(job / "tmp"), "OMP_NUM_THREADS": "1"}
    call = [sys.executable, "-m", "asr_lightning", "run-job", str(job)]
    with (job / "trainer.log").open("w") as log:
        process = subprocess.Popen(call, cwd=job, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   pass_fds=[lock], start_new_session=True)  # fmt: skip
        os.close(lock)
        other = os.open(job / "worker.lock", os.O_RDWR)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            raise AssertionError("the trainer does not hold its lock")
        except BlockingIOError:
            pass
        assert process.wait(60) == 0, (job / "trainer.log").read_text()
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
    assert read(job, "exit.json")["metrics"] == read(undisturbed, "exit.json")["metrics"]


def test_the_server_chooses_device_and_checkpoint_and_no_option_comes_from_a_client() -> None:
    spec = JobSpec("whisper-tiny", "de", 4, 7)
    run_spec = spec_of(Assignment("one", 2, "cuda:1", "whisper-tiny", spec, True), True)
    paths = {"data": Path("dataset"), "run_dir": Path("run")}
    assert run_spec == RunSpec(
        **paths, model="whisper-tiny", language="de", epochs=4, seed=7, accelerator="cuda", devices=(1,), resume=True
    )
    plan = run_spec.plan().asked
    assert plan["trainer"] == {"max_epochs": 4, "accelerator": "cuda", "devices": [1]}
    assert (plan["seed_everything"], plan["data"]["seed"], plan["ckpt_path"]) == (7, 7, "last")
    assert plan["model"]["adapter"]["init_args"]["language"] == "de"
    run_spec = spec_of(Assignment("one", 1, "mps", "toy", JobSpec("toy"), False), False)
    assert (run_spec.accelerator, run_spec.devices, run_spec.resume) == ("mps", 1, False)


def test_metrics_tell_what_the_canary_lost() -> None:
    pairs = (Pair("1", "a b", "a b", "a c"), Pair("2", "c d", "c d", "c d"))
    costs = dict.fromkeys((field.name for field in fields(Cost)), 1.0)
    study = Study(
        "toy", "toy", "basic", False, "Chosen: one.", "native", pairs, pairs, canary={"native": pairs},
        candidates=(Candidate("one", 1.0, 0.25, chosen=True),), cost=costs,
    )  # fmt: skip
    outcome = Outcome.from_report(build(study), Path("run"))
    metrics = outcome.as_metrics()
    json.dumps(metrics)
    assert metrics["canary"] == {"native": {"before": 0.0, "after": 0.25, "delta": 0.25}}
    assert (metrics["before"], metrics["after"], metrics["delta"]) == (0.0, 0.25, 0.25)
    assert metrics["verdict"] == outcome.verdict and outcome.verdict.startswith("No clear change: on 2 test clips")


def test_a_trainer_says_that_it_is_there_before_it_imports_torch() -> None:
    """Seconds pass until torch is loaded; a phase is to be seen sooner."""
    names = ("cli.run_job", "job_folder.packaging", "job_folder.ending", "job_folder.status")
    code = f"import sys, {', '.join(f'asr_lightning.{name}' for name in names)}\n"
    code += "print([name for name in ('torch', 'lightning', 'transformers', 'nemo', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
