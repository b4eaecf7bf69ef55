"""A job and its events, as the store has them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine import states


@dataclass(frozen=True)
class Job:
    """A job as the store has it.

    Attributes:
        id: Opaque.
        state: One of ``states``.
        attempt: Trainings started so far; the current one's number.
        auto_resumes: How many of them the server started by itself after a crash.
        source: "seed" for POST /training, "v1" for POST /v1/jobs.
        created_at, started_at, ended_at: UTC, ISO 8601; shown, never used to decide a state.
        device: Held now; None else.
        resumed_from: Checkpoint that the current attempt went on from.
        error: ``code``, ``message``, ``param``.
        dataset: Utterances, seconds, sha256 and counts of issues, from the intake.
        metrics: WER before and after, and what the report says of them.
        artifacts: sha256 by name.
        progress: What the trainer last said of itself; from its file, not from the store.
    """

    id: str
    state: str
    attempt: int
    auto_resumes: int
    source: str
    spec: JobSpec
    created_at: str
    started_at: str | None
    ended_at: str | None
    device: str | None
    resumed_from: str | None
    error: dict[str, Any] | None
    dataset: dict[str, Any] | None
    metrics: dict[str, Any] | None
    artifacts: dict[str, str]
    progress: dict[str, Any] | None = None


@dataclass(frozen=True)
class Event:
    """One change of a job; ``seq`` counts from 1 without a gap."""

    seq: int
    time: str
    kind: str
    data: dict[str, Any]


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def new_job(job_id: str, spec: JobSpec, source: str) -> Job:
    """A job that has just been asked for."""
    return Job(
        id=job_id, state=states.CREATED, attempt=0, auto_resumes=0, source=source, spec=spec, created_at=now(),
        started_at=None, ended_at=None, device=None, resumed_from=None, error=None, dataset=None, metrics=None,
        artifacts={},
    )  # fmt: skip
