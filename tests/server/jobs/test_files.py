"""The JSON files of a job's folder: their exact members, and damaged or older ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from asr_lightning.cloud.ledger import Ledger
from asr_lightning.job_folder.ending import Ending
from asr_lightning.job_folder.failure import UNKNOWN, Failure
from asr_lightning.job_folder.intake_report import Dataset, IntakeReport
from asr_lightning.job_folder.progress import Progress
from asr_lightning.job_folder.spec import JobSpec

MODEL = b"weights"
DIGEST = hashlib.sha256(MODEL).hexdigest()
FAILURE = Failure("oom", "take a smaller model", "model")


def content(path: Path) -> Any:
    return json.loads(path.read_text())


def put(folder: Path, name: str, document: Any) -> None:
    (folder / name).write_text(document if isinstance(document, str) else json.dumps(document))


def test_progress(tmp_path: Path) -> None:
    check = {"epoch": 0.5, "step": 3, "wer": 0.25, "loss": None}
    progress = Progress(attempt=2, phase="running", message="training", epoch=1, epochs=4, checks=[check, check])
    progress.write(tmp_path)
    assert content(tmp_path / "progress.json") == {
        "attempt": 2, "phase": "running", "message": "training", "epoch": 1, "epochs": 4, "step": None, "steps": None,
        "fraction": 0.0, "eta_s": None, "resumed_from": None, "checks": [check, check], "base_wer": None,
    }  # fmt: skip
    assert Progress.read(tmp_path) == progress
    assert progress.as_event() == {
        "phase": "running", "message": "training", "epoch": 1, "epochs": 4, "fraction": 0.0, "checks": [check],
        "base_wer": None,
    }  # fmt: skip


@pytest.mark.parametrize("document", ["", '{"attempt": 1, "ph', "[1]", "{}"])
def test_no_progress_in_a_damaged_file(document: str, tmp_path: Path) -> None:
    put(tmp_path, "progress.json", document)
    assert Progress.read(tmp_path) is None


def test_progress_with_missing_and_wrong_members(tmp_path: Path) -> None:
    put(tmp_path, "progress.json", {"attempt": 1, "phase": "running", "fraction": "x", "checks": [1], "epoch": None})
    assert Progress.read(tmp_path) == Progress(attempt=1, phase="running", message="", checks=[])


def test_a_failure(tmp_path: Path) -> None:
    Ending.failed(3, FAILURE).write(tmp_path)
    error = {"code": "oom", "message": "take a smaller model", "param": "model"}
    assert content(tmp_path / "exit.json") == {
        "attempt": 3, "code": 1, "error": error, "artifacts": {}, "metrics": None,
    }  # fmt: skip
    assert Ending.read(tmp_path, 3) == Ending.failed(3, FAILURE)
    assert Ending.read(tmp_path, 2) is None, "it is of another attempt"
    put(tmp_path, "exit.json", {"attempt": 3, "code": 1, "error": error})  # as the server wrote it before
    assert Ending.read(tmp_path, 3) == Ending.failed(3, FAILURE)
    put(tmp_path, "exit.json", {"attempt": 3, "code": 1})
    assert Ending.read(tmp_path, 3) == Ending.failed(3, UNKNOWN)


def test_a_success_counts_with_its_artifacts_only(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "model.tar.gz").write_bytes(MODEL)
    good = Ending(1, None, {"model.tar.gz": DIGEST}, {"before": 0.5, "after": 0.25, "verdict": "better"})
    good.write(tmp_path)
    assert Ending.read(tmp_path, 1) == good
    for artifacts in ({}, {"model.tar.gz": "0" * 64}, {"model.tar.gz": DIGEST, "../x": DIGEST}, None):
        put(tmp_path, "exit.json", {"attempt": 1, "code": 0, "artifacts": artifacts})
        assert Ending.read(tmp_path, 1) is None


def test_an_intake_report(tmp_path: Path) -> None:
    dataset = Dataset(utterances=2, seconds=1.5, sha256=DIGEST, counts={}, issues=[])
    IntakeReport(None, dataset).write(tmp_path)
    assert content(tmp_path / "intake.json") == {"ok": True, "error": None, **dataset}
    assert IntakeReport.read(tmp_path) == IntakeReport(None, dataset)
    put(tmp_path, "intake.json", {"ok": False, "error": {"code": "too_large", "message": "send less"}})
    report = IntakeReport.read(tmp_path)
    assert report is not None and report.error == Failure("too_large", "send less")
    assert set(report.dataset.values()) == {None}
    put(tmp_path, "intake.json", {"error": None})
    assert IntakeReport.read(tmp_path) is None


def test_a_rental_of_another_version(tmp_path: Path) -> None:
    record = Ledger(tmp_path).open(
        provider="local", gpu="cpu", price=0.0, spec=JobSpec("toy").as_dict(), max_seconds=1.0, output="out"
    ).record  # fmt: skip
    path = tmp_path / "rentals" / f"{record.id}.json"
    assert content(path)["error"] is None
    put(path.parent, path.name, {**content(path), "error": FAILURE.as_dict(), "metrics": {"before": 0.5}, "later": 1})
    record = Ledger(tmp_path).record(record.id)
    assert (record.error, record.metrics) == (FAILURE, {"before": 0.5})
