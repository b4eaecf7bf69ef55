"""``python -m asr_lightning run-job`` as the server starts it."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

from asr_lightning.commands.run_job import Assignment, fit_arguments, metrics_of
from asr_lightning.jobs.spec import JobSpec
from asr_lightning.reports.build import section
from asr_lightning.reports.study import Pair
from asr_lightning.text import basic
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
    found = fit_arguments(Assignment(2, "cuda:1", "whisper-tiny", spec, True), True)
    assert found == [
        "fit", "--model", "whisper-tiny", "--data.audio_dir=dataset", "--run_dir=run", "--seed_everything=7",
        "--data.seed=7", "--trainer.max_epochs=4", "--trainer.accelerator=cuda", "--trainer.devices=[1]",
        "--model.adapter.init_args.language=de", "--ckpt_path=last",
    ]  # fmt: skip
    found = fit_arguments(Assignment(1, "mps", "toy", JobSpec("toy"), False), False)
    assert found[-2:] == ["--trainer.accelerator=mps", "--trainer.devices=1"]


def test_metrics_tell_what_the_canary_lost() -> None:
    part = section([Pair("1", "a b", "a b", "a c"), Pair("2", "c d", "c d", "c d")], basic)
    report = {"test": part, "canary": {"modes": {"native": part}}, "verdict": {"sentence": "Worse."}}
    found = metrics_of(report)
    assert found["canary"] == {"native": {"before": 0.0, "after": 0.25, "delta": 0.25}}
    assert (found["delta"], found["verdict"]) == (0.25, "Worse.")


def test_a_trainer_says_that_it_is_there_before_it_imports_torch() -> None:
    """Seconds pass until torch is loaded; a phase is to be seen sooner."""
    names = ("commands.run_job", "packaging", "jobs.ending", "jobs.trainer_status")
    code = f"import sys, {', '.join(f'asr_lightning.{name}' for name in names)}\n"
    code += "print([name for name in ('torch', 'lightning', 'transformers', 'nemo', 'numpy') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
