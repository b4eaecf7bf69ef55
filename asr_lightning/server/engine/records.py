"""A job and its events, as the store holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Literal, TypedDict

from asr_lightning.job_folder.ending import Metrics
from asr_lightning.job_folder.failure import Failure
from asr_lightning.job_folder.intake_report import Dataset
from asr_lightning.job_folder.progress import Progress
from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine import states

Source = Literal["seed", "v1"]
PREDECESSOR: Source = "seed"
"""The source of jobs from ``POST /training``, the API of this server's predecessor."""
V1: Source = "v1"
"""The source of jobs from ``POST /v1/jobs``."""


FileState = Literal["lost", "changed", "unreadable"]
LOST: FileState = "lost"
CHANGED: FileState = "changed"
UNREADABLE: FileState = "unreadable"


@dataclass(frozen=True)
class Damage:
    """A file of a job that is not as it should be.

    Attributes:
        name: Path of the file inside the job's folder.
        state: ``lost``, ``changed`` since the training wrote it, or ``unreadable``.
        message: What is wrong and what to do, for people.
    """

    name: str
    state: FileState
    message: str

    def as_dict(self) -> dict[str, str]:
        """The damage as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as the store holds it.

    Attributes:
        id: Opaque, random id.
        state: One of ``states.STATES``.
        attempt: Number of trainings started so far, which is the number of the current one.
        auto_resumes: How many of them the server started by itself after a crash.
        source: The API that the job came by: ``PREDECESSOR`` or ``V1``.
        owner: Name of the token that made the job; None if it had no name.
        spec: What the client asked for.
        created_at, started_at, ended_at: UTC, ISO 8601. They are shown, and never decide a state.
        device: Device that the job holds now; None if it holds none.
        resumed_from: Checkpoint that the current attempt started from.
        error: Why the job failed.
        dataset: What the intake says of the data.
        metrics: Scores before and after training.
        artifacts: SHA-256 of each artifact, by name.
        progress: What the trainer last wrote of its progress; it comes from its file, not from the store.
        damage: Files of the job that are lost, changed or unreadable; from the files too.
    """

    id: str
    state: str
    attempt: int = 0
    auto_resumes: int = 0
    source: str
    owner: str | None = None
    spec: JobSpec
    created_at: str
    started_at: str | None = None
    ended_at: str | None = None
    device: str | None = None
    resumed_from: str | None = None
    error: Failure | None = None
    dataset: Dataset | None = None
    metrics: Metrics | None = None
    artifacts: Mapping[str, str]
    progress: Progress | None = None
    damage: tuple[Damage, ...] = ()


class JobChanges(TypedDict, total=False):
    """The columns of a job that a change of its state may set."""

    attempt: int
    auto_resumes: int
    started_at: str | None
    ended_at: str | None
    device: str | None
    resumed_from: str | None
    error: Failure | None
    dataset: Dataset | None
    metrics: Metrics | None
    artifacts: Mapping[str, str]


@dataclass(frozen=True)
class Event:
    """One change of a job.

    Attributes:
        seq: Number of the event among those of its job, from 1 on. A rebuilt store leaves a gap and never begins again,
            so that each new event has a higher number than any that a client has seen.
        time: UTC, ISO 8601.
        kind: "state", "progress" or "purged".
        data: JSON object that clients get as it is.
    """

    seq: int
    time: str
    kind: str
    data: Mapping[str, object]


def now() -> str:
    """The current time: UTC, ISO 8601."""
    return iso(datetime.now(UTC))


def iso(time: datetime) -> str:
    """``time`` as the store holds it."""
    return time.isoformat(timespec="milliseconds")


def new_job(job_id: str, spec: JobSpec, source: str, owner: str | None = None) -> Job:
    """A job that was just submitted."""
    return Job(id=job_id, state=states.CREATED, source=source, owner=owner, spec=spec, created_at=now(), artifacts={})
