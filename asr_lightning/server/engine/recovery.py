"""A store that is missing or damaged is made anew from the job folders; what a crash left half-done is removed."""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import fields
from pathlib import Path
from typing import Any

from asr_lightning.durable.files import read_json
from asr_lightning.durable.ids import is_id
from asr_lightning.durable.locks import is_held
from asr_lightning.job_folder import processes
from asr_lightning.job_folder.assignment import Assignment
from asr_lightning.job_folder.proof import read_ending, read_intake
from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine import states
from asr_lightning.server.engine.home import Home
from asr_lightning.server.engine.records import Job
from asr_lightning.server.engine.store import Store

logger = logging.getLogger(__name__)


def open_store(home: Home) -> Store:
    """The store of ``home``, sound; a damaged one is set aside and all jobs are read from their folders."""
    known = home.store.exists()
    try:
        store = Store(home.store)
    except sqlite3.OperationalError:
        raise  # locked, full or unreadable: that is no damage
    except sqlite3.DatabaseError as error:
        logger.warning("the job store is damaged (%s): it is rebuilt from the job folders", error)
        home.store.replace(home.store.with_name("state.db.damaged"))
        for suffix in ("-wal", "-shm"):
            home.store.with_name(f"state.db{suffix}").unlink(missing_ok=True)
        store, known = Store(home.store), False
    if not known:
        _rebuild(home, store)
    return store


def clean(home: Home, store: Store) -> None:
    """Remove what no job refers to: partial uploads, folders that were never acknowledged, halves of deletions."""
    home.empty_trash()
    for path in home.uploads.iterdir():
        processes.end_all(path.name)  # a check that outlived the server
        home.discard(path)
    known = {job.id: job.state for job in store.jobs()}
    for folder in home.jobs():
        if known.get(folder.name, states.PURGED) == states.PURGED:
            home.discard(folder)


def _rebuild(home: Home, store: Store) -> None:
    found = [(request, folder) for folder in home.jobs() if (request := _request(folder)) is not None]
    for request, folder in sorted(found, key=lambda pair: (str(pair[0]["created_at"]), pair[1].name)):
        job = _job_of(request, folder)
        store.restore(job, request.get("key"), str(request.get("body_hash") or ""))
        logger.info("job %s was read from its folder: %s", job.id, job.state)


def _request(folder: Path) -> dict[str, Any] | None:
    found = read_json(folder / "request.json")
    whole = found is not None and found.get("id") == folder.name and is_id(folder.name)
    if not whole:
        logger.warning("%s holds no whole request.json: it was never acknowledged", folder.name)
        return None
    return found


def _job_of(request: dict[str, Any], folder: Path) -> Job:
    assignment = _assignment(folder)
    attempt = assignment.attempt if assignment else 0
    intake = read_intake(folder)
    found: dict[str, Any] = {"dataset": intake[0] if intake else None}
    found |= _state_of(folder, attempt, assignment, intake)
    names = {field.name for field in fields(JobSpec)}
    empty = dict.fromkeys(
        ("started_at", "ended_at", "device", "resumed_from", "error", "dataset", "metrics"), None
    )  # fmt: skip
    return Job(**{
        **empty,
        "id": folder.name,
        "attempt": attempt,
        "auto_resumes": 0,
        "artifacts": {},
        "source": request["source"],
        "spec": JobSpec(**{name: value for name, value in request["spec"].items() if name in names}),
        "created_at": request["created_at"],
        **found,
    })  # fmt: skip


def _assignment(folder: Path) -> Assignment | None:
    """What was asked of the last trainer; None if none was started."""
    try:
        return Assignment.read(folder)
    except ValueError:
        return None


def _state_of(folder: Path, attempt: int, assignment: Assignment | None, intake: Any) -> dict[str, Any]:
    """State of the job in ``folder`` and what goes with it, by proof alone."""
    alive, cancelled = is_held(folder / "worker.lock"), (folder / "cancel").exists()
    ended = read_ending(folder, attempt)
    if alive:
        state = states.CANCELLING if cancelled else (states.PREPARING if attempt else states.VALIDATING)
        return {"state": state, "device": assignment.device if assignment else None}
    if cancelled:
        return {"state": states.CANCELLED}
    if ended is not None and ended.succeeded:
        return {"state": states.SUCCEEDED, "metrics": ended.metrics, "artifacts": ended.artifacts}
    if ended is not None:
        return {"state": states.FAILED, "error": ended.error}
    if intake is not None and intake[1] is not None:
        return {"state": states.FAILED, "error": intake[1]}
    if attempt:
        return {"state": states.INTERRUPTED}
    return {"state": states.CREATED if intake is None else states.QUEUED}
