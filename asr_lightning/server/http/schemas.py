"""The shapes of answers, for the OpenAPI description. Routes build the answers by hand; a test compares the two."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """An object with exactly the named members."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """An error, after RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str


class Failure(Shape):
    """Why a job failed."""

    code: str
    message: str
    param: str | None


class Issue(Shape):
    """Something wrong or doubtful about a clip, or about the whole data set."""

    code: str
    level: str
    uid: str | None
    name: str | None
    message: str


class Dataset(Shape):
    """What is known of the data of a job."""

    utterances: int | None
    seconds: float | None
    sha256: str | None
    counts: dict[str, int] | None
    issues: list[Issue] | None


class Metrics(BaseModel):
    """Scores before and after training; further members say more about them."""

    before: float
    after: float
    verdict: str


class Created(Shape):
    """Answer of ``POST /training``."""

    training_id: str


class Status(Shape):
    """Answer of ``GET /status``: the five members of the predecessor, and five for programs."""

    progress: str
    status: str
    tensorboard_url: str | None
    training_dir: str | None
    training_id: str | None
    state: str | None
    error: Failure | None
    message: str | None
    eta_s: float | None
    epoch: float | None


class Progress(Shape):
    """How far a job is."""

    phase: str
    message: str
    epoch: float | None
    epochs: int
    step: int | None
    steps: int | None
    fraction: float
    eta_s: float | None


class Params(Shape):
    """The parameters of a training."""

    epochs: int
    seed: int


class Links(Shape):
    """Paths on this server that belong to a job."""

    events: str
    logs: str
    report: str
    artifacts: str
    tensorboard: str | None


class Damage(Shape):
    """A file of a job that is ``lost``, ``changed`` since the training wrote it, or ``unreadable``."""

    name: str
    state: str
    message: str


class Job(Shape):
    """A job."""

    id: str
    object: str
    state: str
    progress: Progress
    created_at: str
    started_at: str | None
    ended_at: str | None
    base_model: str
    base_revision: str | None
    language: str | None
    params: Params
    owner: str | None
    dataset: Dataset | None
    metrics: Metrics | None
    attempt: int
    resumed_from: str | None
    error: Failure | None
    damage: list[Damage]
    links: Links


class Jobs(Shape):
    """A page of jobs, newest first."""

    data: list[Job]
    next: str | None


class Event(Shape):
    """A change of a job."""

    seq: int
    time: str
    kind: str
    data: dict[str, object]


class Events(Shape):
    """A page of events, oldest first; ``next`` is the number to ask for as ``after``."""

    data: list[Event]
    next: str | None


class Checkpoint(Shape):
    """A checkpoint, which is never handed out."""

    name: str
    size: int


class ValidationResult(Shape):
    """The scores of one pass over the dev set."""

    epoch: float
    step: int
    wer: float
    loss: float | None


class Checkpoints(Shape):
    """The checkpoints of a job, and the validation results of its training."""

    data: list[Checkpoint]
    checks: list[ValidationResult]
    next: str | None


class Artifact(Shape):
    """A file to download; ``state`` is ``ok``, ``lost`` or ``changed``."""

    name: str
    size: int
    sha256: str
    state: str


class Artifacts(Shape):
    """The files of a job that can be downloaded."""

    data: list[Artifact]
    next: str | None


class Receipt(Shape):
    """What a deletion removed."""

    id: str
    deleted: list[str]
    bytes: int
    created_at: str
    ended_at: str | None
    deleted_at: str
    artifacts: dict[str, str]
    dataset_sha256: str | None


class Upload(Shape):
    """A resumable upload."""

    id: str
    received: int
    size: int | None


class Uploads(Shape):
    """The open resumable uploads, the oldest first."""

    data: list[Upload]
    next: str | None


class Model(Shape):
    """A base model."""

    name: str
    source: str
    licence: str | None
    restricted: bool
    languages: str | None
    parameters: int | None
    gb_to_train: float | None


class Models(Shape):
    """The base models."""

    data: list[Model]
    next: str | None


class Verdict(BaseModel):
    """The result of inspecting a data set."""

    ok: bool
    utterances: int
    seconds: float


class Version(Shape):
    """The version of the server."""

    name: str
    version: str


class Health(Shape):
    """Whether the server works."""

    status: str
