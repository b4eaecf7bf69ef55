"""Shapes of the answers, for the OpenAPI description. Routes build them by hand; a test compares (schemathesis)."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from asr_lightning.server.http.problems import CODES, MEDIA_TYPE


class Shape(BaseModel):
    """Nothing but what is named."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """An error, after RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str


class Created(Shape):
    """Answer of ``POST /training``."""

    training_id: str


class Status(Shape):
    """Answer of ``GET /status``: the seed's five keys, and five for machines."""

    progress: str
    status: str
    tensorboard_url: str | None
    training_dir: str | None
    training_id: str | None
    state: str | None
    error: dict[str, Any] | None
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
    """Of a training."""

    epochs: int
    seed: int


class Links(Shape):
    """Paths on this server."""

    events: str
    logs: str
    report: str
    artifacts: str
    tensorboard: str | None


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
    dataset: dict[str, Any] | None
    metrics: dict[str, Any] | None
    attempt: int
    resumed_from: str | None
    error: dict[str, Any] | None
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
    data: dict[str, Any]


class Events(Shape):
    """A page of events, oldest first; ``next`` is the number to ask for as ``after``."""

    data: list[Event]
    next: str | None


class Checkpoint(Shape):
    """A checkpoint, which is never handed out."""

    name: str
    size: int


class Checkpoints(Shape):
    """Of a job, with what each check of the training measured."""

    data: list[Checkpoint]
    checks: list[dict[str, Any]]
    next: str | None


class Artifact(Shape):
    """A file to download."""

    name: str
    size: int
    sha256: str


class Artifacts(Shape):
    """Of a job."""

    data: list[Artifact]
    next: str | None


class Receipt(Shape):
    """What a deletion removed."""

    id: str
    deleted: list[str]
    bytes: int


class Upload(Shape):
    """A resumable upload."""

    id: str
    received: int
    size: int | None


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
    """Of the data checks."""

    ok: bool
    utterances: int
    seconds: float


class Version(Shape):
    """Of the server."""

    name: str
    version: str


class Health(Shape):
    """Whether the server is well."""

    status: str


def answers(*codes: str, **success: Any) -> dict[int | str, dict[str, Any]]:
    """``responses`` of a route: the problems ``codes`` and those that every route has, and ``success`` by status.

    Args:
        codes: Of ``problems.CODES``.
        success: ``s200=Model`` or ``s200={"text/plain": schema}``.
    """
    found: dict[int | str, dict[str, Any]] = {}
    for name, shape in success.items():
        status, kinds = int(name[1:]), shape
        described = {"content": {kind: {"schema": schema} for kind, schema in kinds.items()}} if isinstance(
            shape, dict) else {"model": shape} if shape else {}  # fmt: skip
        found[status] = {"description": "Done", **described}
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for code in ("unauthorized", "forbidden_origin", *codes):
        status, title = CODES[code]
        before = found[status]["description"] + "; " if status in found else ""
        content = {**found.get(status, {}).get("content", {}), **problem}
        found[status] = {**found.get(status, {}), "description": f"{before}`{code}`: {title}", "content": content}
    return found


TEXT = {"text/plain": {"type": "string"}}
BINARY = {"type": "string", "format": "binary"}
