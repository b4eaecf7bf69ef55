"""The JSON objects that the server answers with, as types; ``/openapi.json`` of a server describes them in full.

At run time they are plain dictionaries, so that ``job["id"]`` works. Standard library only.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

JobState = Literal[
    "created", "validating", "queued", "preparing", "running", "evaluating", "packaging", "cancelling", "interrupted",
    "succeeded", "failed", "cancelled", "purged",
]  # fmt: skip


class Issue(TypedDict, total=False):
    """A problem that the inspection of the recordings found.

    Attributes:
        code: Its stable name, such as ``D07``.
        level: ``E``: the recording is left out; ``W``: doubtful; ``I``: for information.
        name: File name of the recording; None where the issue concerns the whole data set.
        uid: The server's name of the recording.
        message: What is wrong, and what to do.
    """

    code: str
    level: Literal["E", "W", "I"]
    name: str | None
    uid: str | None
    message: str


class Dataset(TypedDict, total=False):
    """The recordings that were sent, as the server found them.

    Attributes:
        utterances: Number of usable recordings.
        seconds: Their length together.
        sha256: Hash of their sound, texts and splits.
        counts: Number of issues by code.
        issues: The first issues, the worst first.
    """

    utterances: int
    seconds: float
    sha256: str | None
    counts: dict[str, int]
    issues: list[Issue]


class Verdict(Dataset, total=False):
    """Answer of ``POST /v1/datasets/validate``; ``ok`` says that the recordings are good to train."""

    ok: bool


class Failure(TypedDict, total=False):
    """Why a job failed: a stable code, a sentence, and the parameter that caused it if one did."""

    code: str
    message: str
    param: str | None


class Metrics(TypedDict, total=False):
    """Word error rate on the test split before and after training, and whether the model got better.

    Attributes:
        before: Of the base model, as a fraction.
        after: Of the trained model.
        delta: Difference of the two.
        interval: Confidence interval of the difference: its low and its high end.
        p_better: Probability that the trained model is better.
        canary: The same rates on other people's speech, by the way of reading it.
        verdict: The conclusion, in a sentence.
    """

    before: float | None
    after: float | None
    delta: float
    interval: list[float]
    p_better: float
    canary: dict[str, dict[str, float]] | None
    verdict: str


class JobProgress(TypedDict, total=False):
    """How far a job is; ``message`` is for people, ``fraction`` goes from 0 to 1."""

    phase: str
    message: str
    epoch: float | None
    epochs: int
    step: int | None
    steps: int | None
    fraction: float
    eta_s: float | None


class Params(TypedDict):
    """What a job trains with."""

    epochs: int
    seed: int


class Damage(TypedDict):
    """A file of a job that is ``lost``, ``changed`` since the training wrote it, or ``unreadable``."""

    name: str
    state: Literal["lost", "changed", "unreadable"]
    message: str


class Links(TypedDict):
    """Paths on the server."""

    events: str
    logs: str
    report: str
    artifacts: str
    tensorboard: str | None


class Job(TypedDict):
    """A training job.

    Attributes:
        base_model: Name of the model that is specialized.
        owner: Name whose token made the job; None if it has none. Older servers do not send it.
        dataset: The recordings; None until they have been read.
        metrics: None until the training has succeeded.
        attempt: Number of the attempt, from 1 on.
        resumed_from: Checkpoint that this attempt started from.
        error: None unless the job failed.
        damage: Files of the job that the server lost or cannot read; earlier servers do not send it.
    """

    id: str
    object: str
    state: JobState
    progress: JobProgress
    created_at: str
    started_at: str | None
    ended_at: str | None
    base_model: str
    base_revision: str | None
    language: str | None
    params: Params
    owner: NotRequired[str | None]
    dataset: Dataset | None
    metrics: Metrics | None
    attempt: int
    resumed_from: str | None
    error: Failure | None
    damage: NotRequired[list[Damage]]
    links: Links


class Validation(TypedDict):
    """Result of one validation on the dev set during training; ``loss`` is None where it is not finite."""

    epoch: float
    step: int
    wer: float
    loss: float | None


class EventData(TypedDict, total=False):
    """What an event reports: ``state`` and ``purged`` have the first three entries, ``progress`` the others.

    Attributes:
        checks: The latest validation, in a list of one; empty before the first.
        base_wer: Word error rate of the base model on the dev set.
    """

    state: JobState
    attempt: int
    error: Failure
    phase: str
    message: str
    epoch: float | None
    epochs: int
    fraction: float
    checks: list[Validation]
    base_wer: float | None


class Model(TypedDict, total=False):
    """A base model that the server trains."""

    name: str
    source: str
    licence: str | None
    restricted: bool
    languages: str | None
    parameters: int | None
    gb_to_train: float | None


class Receipt(TypedDict):
    """What a deletion removed: the files, relative to the server's home, and their size together.

    Attributes:
        artifacts: SHA-256 of each artifact, by name.
        dataset_sha256: Hash of the recordings, texts and splits.
    """

    id: str
    deleted: list[str]
    bytes: int
    created_at: NotRequired[str]
    ended_at: NotRequired[str | None]
    deleted_at: NotRequired[str]
    artifacts: NotRequired[dict[str, str]]
    dataset_sha256: NotRequired[str | None]


class Artifact(TypedDict):
    """A file that can be downloaded, if its ``state`` is ``ok``; earlier servers do not send the state."""

    name: str
    size: int
    sha256: str
    state: NotRequired[Literal["ok", "lost", "changed"]]


class UploadState(TypedDict, total=False):
    """A resumable upload, and how many of its bytes the server has received."""

    id: str
    received: int
    size: int | None


class ProblemDetails(TypedDict, total=False):
    """An error as RFC 9457 has it (``application/problem+json``), with the members that this server adds.

    Attributes:
        code: Stable name of the reason.
        detail: What happened and what to do.
        param: Parameter of the request that is wrong.
        received: Bytes of the upload that the server has.
        issues: Problems of the recordings.
        counts: Number of issues by code.
        utterances: Number of usable recordings.
        seconds: Their length together.
        training_id: The job that keeps the server busy.
        state: State of the job.
    """

    type: str
    title: str
    status: int
    code: str
    detail: str
    param: str | None
    received: int
    issues: list[Issue]
    counts: dict[str, int]
    utterances: int
    seconds: float
    training_id: str
    state: JobState
