"""The names of files and folders inside a job's folder."""

from __future__ import annotations

from pathlib import Path

ARCHIVE = "input/archive.tar.gz"
"""The recordings and transcripts that the client sent."""
DATASET = "dataset"
"""The data set that the intake makes of the archive."""
RUN = "run"
"""The run directory of the training."""
ARTIFACTS = "artifacts"
"""The files of a finished job that clients can download."""
ASSIGNMENT = "assignment.json"
REQUEST = "request.json"
INTAKE_REPORT = "intake.json"
PROGRESS = "progress.json"
EXIT_RECORD = "exit.json"
HISTORY = "history.jsonl"
CANCEL_FLAG = "cancel"
WORKER_LOCK = "worker.lock"
"""Held by the running worker for its whole life."""

MODEL_ARCHIVE = "model.tar.gz"
REPORT_HTML = "report.html"
REPORT_JSON = "report.json"
CHECKSUMS = "SHA256SUMS"
ARTIFACT_NAMES = (MODEL_ARCHIVE, REPORT_HTML, REPORT_JSON, CHECKSUMS)
"""The only files of ``artifacts`` that are ever handed out."""


def log_of(folder: Path, worker: str) -> Path:
    """The log of a worker, which is called "intake" or "trainer"."""
    return folder / "logs" / f"{worker}.log"
