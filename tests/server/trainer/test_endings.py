"""A failed trainer reports a code for programs and advice for people, and reveals no path of the host."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from asr_lightning.job_folder.status import STOP_S
from tests.server.trainer.jobs import assign, log, make_job, read, start, train, wait_for_phase

CANCEL_S = STOP_S + 3


def test_a_success_is_told_in_full(undisturbed: Path) -> None:
    ending, progress = read(undisturbed, "exit.json"), read(undisturbed, "progress.json")
    assert (ending["attempt"], ending["code"], ending["error"]) == (1, 0, None)
    assert set(ending["artifacts"]) == {"model.tar.gz", "report.html", "report.json", "SHA256SUMS"}
    assert set(ending["metrics"]) == {"before", "after", "delta", "interval", "p_better", "canary", "verdict"}
    assert ending["metrics"]["after"] < ending["metrics"]["before"] and ending["metrics"]["canary"] is None
    report = read(undisturbed, "artifacts/report.json")
    assert ending["metrics"]["before"] == report["test"]["before"]["wer"]
    assert progress["phase"] == "packaging" and progress["message"] == "packaging model"
    assert (progress["fraction"], progress["epoch"], progress["epochs"]) == (1.0, 3.0, 3)
    assert (progress["step"], progress["steps"]) == (9, 9)
    assert [check["step"] for check in progress["checks"]] == [2, 3, 5, 6, 8, 9]
    assert progress["base_wer"] == pytest.approx(1.0)


def test_nothing_that_is_handed_out_names_the_host(undisturbed: Path) -> None:
    for name in ("artifacts/report.json", "artifacts/report.html", "run/config.yaml", "exit.json", "progress.json"):
        assert str(undisturbed.parent).encode() not in (undisturbed / name).read_bytes(), name


def test_no_sound_and_no_text_is_logged_to_tensorboard(undisturbed: Path) -> None:
    """Its pages may be public (T3, T21)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags = EventAccumulator(str(undisturbed / "run" / "tensorboard")).Reload().Tags()
    assert "dev/wer" in tags["scalars"]
    assert not tags["audio"] and not [tag for tag in tags["tensors"] if "text" in tag]


def test_cancel_stops_training_at_the_next_batch(job: Path) -> None:
    assign(job, epochs=100)
    process = start(job)
    wait_for_phase(job, "running")
    (job / "cancel").touch()
    cancelled = time.monotonic()
    process.join(30)
    assert time.monotonic() - cancelled < CANCEL_S
    assert process.exitcode == 1
    assert read(job, "exit.json")["error"]["code"] == "cancelled"
    assert "CancelledError" in log(job), "the loop itself stopped"
    assert not list(job.glob("run/tmp*"))


def test_a_cancelled_job_goes_on_where_it_was(job: Path, undisturbed: Path) -> None:
    """No checkpoint of half an epoch is left, as Lightning's own way to stop would."""
    from tests.server.trainer.test_crashes import same_model

    process = start(job, "training.checkpoint.kept:exception:2")
    process.join(30)
    assert read(job, "exit.json")["error"]["code"] == "internal"
    (job / "cancel").touch()
    assign(job, attempt=2, resume=True)
    assert train(job) == 1
    assert read(job, "exit.json")["error"]["code"] == "cancelled"
    (job / "cancel").unlink()
    assign(job, attempt=3, resume=True)
    assert train(job) == 0, log(job)
    assert same_model(job, undisturbed)


def test_sigterm_from_outside_is_no_ending(job: Path) -> None:
    """A machine that shuts down: without exit.json the server tries again."""
    assign(job, epochs=100)
    process = start(job)
    wait_for_phase(job, "running")
    assert process.pid
    os.kill(process.pid, signal.SIGTERM)
    process.join(30)
    assert process.exitcode in (128 + signal.SIGTERM, -signal.SIGTERM)
    assert not (job / "exit.json").exists()


def test_a_full_disk_is_named(job: Path) -> None:
    """Of files up to 150 kB neither weights nor checkpoints can be written in whole; the log can."""
    assert train(job, limits={"RLIMIT_FSIZE": 150_000}) == 1
    ending = read(job, "exit.json")
    assert ending["error"]["code"] == "disk_full", log(job)
    assert "free some space" in ending["error"]["message"]
    assert not (job / "artifacts").exists() and not (job / "run" / "checkpoints" / "new.ckpt").exists()


@pytest.mark.parametrize("place", ["best.kept", "checkpoint.recorded", "packed", "packaged"])
def test_a_disk_that_fills_up_anywhere_is_named_and_the_job_can_go_on(place: str, job: Path, undisturbed: Path) -> None:
    from tests.server.trainer.test_crashes import same_model

    assert train(job, f"training.{place}:enospc") == 1
    assert read(job, "exit.json")["error"]["code"] == "disk_full"
    assign(job, attempt=2, resume=True)
    assert train(job) == 0, log(job)
    assert same_model(job, undisturbed)


def test_no_exit_record_means_no_success(job: Path) -> None:
    assert train(job, "training.ending:enospc") == 1
    assert not (job / "exit.json").exists()
    assert "exit.json cannot be written" in log(job)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_running_out_of_memory_is_named(tones_once: Path, tmp_path: Path) -> None:
    """A real limit of the address space, which the decoded recordings alone would pass."""
    import numpy as np
    import soundfile

    job = make_job(tmp_path / "job", tones_once)
    for path in (job / "dataset").glob("*.wav"):
        wave = np.resize(soundfile.read(path)[0], 29 * 8000)
        for number in range(10):
            soundfile.write(path.with_name(f"{path.stem}-{number}.wav"), wave, 8000)
            path.with_name(f"{path.stem}-{number}.txt").write_text(
                f"{path.with_suffix('.txt').read_text()} {'abc' * number}"
            )
    assert train(job, limits={"RLIMIT_AS": 100 << 20}) == 1, log(job)
    error = read(job, "exit.json")["error"]
    assert error["code"] == "oom", log(job)
    assert "smaller model" in error["message"]


def test_a_bad_recording_is_the_data_sets_fault(job: Path) -> None:
    (job / "dataset" / "003.wav").write_bytes(b"no audio")
    assert train(job) == 1
    error = read(job, "exit.json")["error"]
    assert (error["code"], error["param"]) == ("dataset_invalid", "data")
    assert "003.wav" in error["message"] and str(job) not in error["message"]
    assert error["message"].isprintable()


def test_an_unknown_failure_is_named_without_the_host(job: Path) -> None:
    assert train(job, "training.evaluating:exception") == 1
    error = read(job, "exit.json")["error"]
    assert error["code"] == "internal"
    assert error["message"] == "InjectedError: injected at training.evaluating"
    assert "Traceback" in log(job), "the log has it all"


def test_a_language_that_the_model_does_not_take_is_refused(job: Path) -> None:
    assign(job, language="de")
    assert train(job) == 1
    error = read(job, "exit.json")["error"]
    assert (error["code"], error["param"]) == ("invalid_parameter", "language")
    assert re.search("toy takes no language", error["message"])


def test_a_missing_assignment_is_refused(job: Path) -> None:
    (job / "assignment.json").write_text('{"attempt": 1')
    assert train(job) == 2
    assert "assignment.json is no assignment (it is missing or cut off)" in log(job)
    assert not (job / "exit.json").exists()
