"""The thread of a trainer that writes progress and notices a cancellation."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from asr_lightning.job_folder.ending import Ending
from asr_lightning.job_folder.failure import CANCELLED, CancelledError
from asr_lightning.job_folder.status import POLL_S, TrainerStatus

GOOD = Ending(attempt=1, error=None, artifacts={}, metrics=None)


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def test_a_phase_is_told_at_once_and_steps_once_a_second(tmp_path: Path) -> None:
    status = TrainerStatus(tmp_path, attempt=2, epochs=8)
    status.start()
    assert read(tmp_path / "progress.json") == status.progress.as_dict()
    status.phase("running", "training, epoch 1 of 8", epoch=0.0)
    time.sleep(0.1)
    assert read(tmp_path / "progress.json")["phase"] == "running"
    seen = set()
    for step in range(60):
        status.update(step=step)
        time.sleep(0.01)
        seen.add(read(tmp_path / "progress.json")["step"])
    assert len(seen) <= 2, "0.6 s of steps are written once at most"
    status.close()
    assert read(tmp_path / "progress.json")["step"] == 59, "the last one is never lost"


def test_a_poll_costs_no_system_call(tmp_path: Path) -> None:
    """A thousand batches a second would spend less than 1 % of their time on it."""
    status = TrainerStatus(tmp_path, attempt=1, epochs=8)
    status.start()
    started = time.perf_counter()
    for step in range(10_000):
        status.check()
        status.update(step=step)
    seconds = (time.perf_counter() - started) / 10_000
    status.close()
    print(f"{1e6 * seconds:.1f} us a batch")
    assert seconds < 1e-5


def test_a_cancel_is_seen_at_the_next_poll(tmp_path: Path) -> None:
    status = TrainerStatus(tmp_path, attempt=1, epochs=8, leave=lambda code: pytest.fail("the loop stops by itself"))
    status.start()
    status.check()
    (tmp_path / "cancel").touch()
    time.sleep(2 * POLL_S)
    with pytest.raises(CancelledError):
        status.check()
    with pytest.raises(CancelledError):
        status.phase("packaging", "packaging model")
    status.close()


def test_a_phase_that_polls_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr_lightning.job_folder.status.STOP_S", 0.3)
    left: list[int] = []
    left_process = threading.Event()
    status = TrainerStatus(tmp_path, attempt=3, epochs=8, leave=lambda code: (left.append(code), left_process.set()))
    status.start()
    (tmp_path / "cancel").touch()
    assert left_process.wait(5)
    assert left == [1]
    ending = read(tmp_path / "exit.json")
    assert (ending["attempt"], ending["error"]["code"]) == (3, "cancelled")
    assert not status.end(GOOD), "a job has one ending"
    assert read(tmp_path / "exit.json") == ending
    status.close()


def test_the_first_ending_stands(tmp_path: Path) -> None:
    status = TrainerStatus(tmp_path, attempt=1, epochs=8)
    assert status.end(GOOD)
    assert not status.end(Ending.failed(1, CANCELLED))
    assert read(tmp_path / "exit.json")["code"] == 0


def test_progress_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    status = TrainerStatus(tmp_path / "gone", attempt=1, epochs=8)
    status.start()
    status.update(step=1)
    status.close()
    assert "progress.json cannot be written" in caplog.text
    with pytest.raises(OSError, match="gone"):
        status.end(GOOD)
