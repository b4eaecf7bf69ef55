"""A job as a row of the store, and as a record in its history."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from asr_lightning.durable.ids import is_id
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.failure import Failure
from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine import states
from asr_lightning.server.engine.records import Event, Job

JSON_COLUMNS = ("error", "dataset", "metrics", "artifacts")
_JSON = frozenset({"spec", *JSON_COLUMNS})
COLUMNS = (
    "id", "state", "attempt", "auto_resumes", "source", "spec", "created_at", "started_at", "ended_at", "device",
    "resumed_from", "error", "dataset", "metrics", "artifacts", "owner",
)  # fmt: skip
REQUIRED = frozenset({"id", "state", "attempt", "auto_resumes", "source", "spec", "created_at", "artifacts"})
Value = str | int | None
"""A value of a column."""


def encoded(name: str, value: object) -> Value:
    """The value of an attribute of ``Job`` as its column holds it."""
    if isinstance(value, JobSpec | Failure):
        return json.dumps(value.as_dict())
    if name in JSON_COLUMNS and value is not None:
        return json.dumps(value)
    assert value is None or isinstance(value, str | int)
    return value


def row_of(job: Job) -> dict[str, Value]:
    """The columns of a job."""
    return {name: encoded(name, getattr(job, name)) for name in COLUMNS}


def job_of(row: sqlite3.Row | Mapping[str, Any]) -> Job:
    """The job that a row of the store holds.

    Raises:
        ValueError: The row is damaged.
        TypeError: The row is damaged.
    """
    if row["state"] not in states.STATES:
        raise ValueError(f"there is no state {row['state']!r}")
    error, dataset, metrics = (json.loads(row[name] or "null") for name in ("error", "dataset", "metrics"))
    artifacts = json.loads(str(row["artifacts"]))
    if not isinstance(artifacts, dict) or not all(isinstance(each, dict | None) for each in (dataset, metrics)):
        raise ValueError("it is not an object")
    if not set(artifacts) <= set(layout.ARTIFACT_NAMES) or not all(
        isinstance(each, str) for each in artifacts.values()
    ):
        raise ValueError("it names artifacts that no job has")
    return Job(
        id=row["id"],
        state=row["state"],
        attempt=row["attempt"],
        auto_resumes=row["auto_resumes"],
        source=row["source"],
        spec=JobSpec.from_json(json.loads(row["spec"])),
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        device=row["device"],
        resumed_from=row["resumed_from"],
        error=None if error is None else Failure.from_json(error),
        dataset=dataset,
        metrics=metrics,
        artifacts=artifacts,
        owner=row["owner"],
    )


def job_of_row(row: sqlite3.Row) -> Job:
    """The job that a row of the store holds; its texts and its id are examined too.

    Raises:
        ValueError: The row is damaged.
        TypeError: The row is damaged.
    """
    for value in row:
        _require_text(value)
    if not is_id(row["id"]):
        raise ValueError("its id is not one of this server")
    return job_of(row)


def text_of(value: bytes) -> str:
    """Any bytes as a text: sqlite3 would raise an error for all rows of a query if one holds bytes that are no text."""
    return value.decode("utf-8", "surrogateescape")


def _require_text(value: object) -> None:
    """Require that a value of a row is no text that was damaged.

    Raises:
        ValueError: It has bytes that are not UTF-8.
    """
    if isinstance(value, str):
        value.encode()


def event_of_row(row: sqlite3.Row) -> Event | None:
    """The event in a row; None if it is damaged, which the next start puts right by the job's history."""
    seq, time, kind, data = row
    try:
        for value in row:
            _require_text(value)
        content = json.loads(data)
    except ValueError:
        return None
    return Event(seq, time, kind, content) if isinstance(content, dict) else None


def record_of(job: Job) -> dict[str, object]:
    """The columns of a job as a JSON object."""
    return {name: json.loads(str(v)) if name in _JSON and v is not None else v for name, v in row_of(job).items()}


def job_of_record(record: Mapping[str, object]) -> Job | None:
    """The inverse of ``record_of``; None if the record is damaged, or holds too little to be a job."""
    row: dict[str, Value] = {}
    for name in COLUMNS:
        value = record.get(name)
        if name in _JSON and value is not None:
            value = json.dumps(value)
        if not isinstance(value, str | int | None) or (value is None and name in REQUIRED):
            return None
        row[name] = value
    try:
        return job_of(row)
    except (ValueError, TypeError):
        return None
