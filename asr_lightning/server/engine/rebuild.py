"""A job as the files in its folder show it: its history tells what was recorded, and the other files prove it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from asr_lightning.durable.locks import is_held
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.assignment import Assignment
from asr_lightning.job_folder.digests import digest_of
from asr_lightning.job_folder.ending import Ending
from asr_lightning.job_folder.failure import Failure
from asr_lightning.job_folder.history import History
from asr_lightning.job_folder.intake_report import IntakeReport
from asr_lightning.job_folder.progress import Progress
from asr_lightning.job_folder.worker import is_cancelled
from asr_lightning.server.engine import states
from asr_lightning.server.engine.records import V1, Job, iso
from asr_lightning.server.engine.rows import job_of_record
from asr_lightning.server.engine.submission import Submission

LOST_MODEL = Failure("interrupted", "the model is damaged or gone: resume the job to make it again")
SIGNS = (layout.REQUEST, layout.HISTORY, layout.EXIT_RECORD, layout.ARTIFACTS, layout.ASSIGNMENT, layout.INTAKE_REPORT)
"""What only a job's folder holds."""


@dataclass(frozen=True)
class Found:
    """A job that was found in its folder.

    Attributes:
        job: The job.
        submission: The request that made it.
        number: The job's place in the list of all jobs; None if it is not known.
        past: Its history, as far as it can be read.
    """

    job: Job
    submission: Submission
    number: int | None
    past: History


def requested(folder: Path, past: History) -> Submission | None:
    """What the client asked for, by the job's request, its history or its trainer's task; None if none tells."""
    submission = Submission.read(folder) or Submission.from_json(past.record, folder.name)
    assignment = _assignment(folder) if submission is None else None
    if assignment is None or assignment.job != folder.name:
        return submission
    return Submission(folder.name, _time_of(folder / layout.ASSIGNMENT), assignment.spec, V1, None, "")


def find(folder: Path, past: History, recorded: Job | None = None) -> Found | None:
    """The job in ``folder``; None if nothing tells what was asked for.

    Args:
        folder: The job's folder.
        past: Its history.
        recorded: The job as a store has it; by default it is taken from the history.
    """
    recorded = recorded or job_of_record(past.record)
    submission = requested(folder, past)
    if submission is None and recorded is not None and recorded.id == folder.name:
        submission = Submission.from_job(recorded, None, "")
    if submission is None:
        return None
    job = _reconciled(recorded, _proved(submission, folder), past, folder)
    number = past.record.get("number")
    return Found(job, submission, number if isinstance(number, int) else None, past)


def is_behind(job: Job, folder: Path) -> bool:
    """Whether the files in ``folder`` prove that the record ``job`` is an old one."""
    assignment = _assignment(folder)
    if assignment is not None and assignment.attempt > job.attempt:
        return True
    intake = IntakeReport.read(folder) if job.state == states.CREATED else None
    return intake is not None and intake.error is None


def ended_at(folder: Path) -> str:
    """When the job in ``folder`` ended, by the time of the file that proves it; now if there is none."""
    for name in (layout.EXIT_RECORD, layout.CANCEL_FLAG, layout.INTAKE_REPORT, layout.ASSIGNMENT, layout.REQUEST):
        if (folder / name).is_file():
            return _time_of(folder / name)
    return iso(datetime.now(UTC))


def _time_of(path: Path) -> str:
    return iso(datetime.fromtimestamp(path.stat().st_mtime, UTC))


def _reconciled(recorded: Job | None, proved: Job, past: History, folder: Path) -> Job:
    """The job as recorded; what files prove to be newer replaces that."""
    if recorded is None:
        return proved
    if recorded.state == states.SUCCEEDED and proved.state != states.SUCCEEDED and proved.attempt <= recorded.attempt:
        if digest_of(folder / layout.ARTIFACTS / layout.MODEL_ARCHIVE) == recorded.artifacts.get(
            layout.MODEL_ARCHIVE, ""
        ):
            return recorded  # exit.json is lost, but not the model
        return replace(recorded, state=states.INTERRUPTED, error=LOST_MODEL, artifacts={}, metrics=None)
    if recorded.attempt >= proved.attempt and past.whole and not _contradicts(recorded, proved, folder):
        return recorded
    same = recorded.attempt == proved.attempt
    return replace(
        proved,
        attempt=max(proved.attempt, recorded.attempt),
        auto_resumes=recorded.auto_resumes,
        dataset=proved.dataset or recorded.dataset,
        started_at=(recorded.started_at if same else None) or proved.started_at,
        ended_at=(recorded.ended_at if recorded.state == proved.state else None) or proved.ended_at,
    )


def _contradicts(recorded: Job, proved: Job, folder: Path) -> bool:
    """Whether files show that the job went on after it was recorded so."""
    if recorded.state == states.PURGED:
        return False
    if recorded.state == states.CREATED:
        return proved.state == states.QUEUED
    if recorded.state in states.ACTIVE - {states.CANCELLING}:
        return is_cancelled(folder)
    return proved.state == states.SUCCEEDED != recorded.state


def _proved(submission: Submission, folder: Path) -> Job:
    """The job in ``folder`` by its files alone, without its history."""
    assignment, intake = _assignment(folder), IntakeReport.read(folder)
    job = Job(
        id=submission.id,
        state=states.CREATED if intake is None else states.QUEUED,
        attempt=assignment.attempt if assignment else 0,
        source=submission.source,
        owner=submission.owner,
        spec=submission.spec,
        created_at=submission.created_at,
        started_at=_time_of(folder / layout.ASSIGNMENT) if assignment else None,
        dataset=intake.dataset if intake else None,
        artifacts={},
    )
    if assignment and (progress := Progress.read(folder)) is not None and progress.attempt == job.attempt:
        job = replace(job, resumed_from=progress.resumed_from, progress=progress)
    if is_held(folder / layout.WORKER_LOCK):
        return replace(job, state=_state_of_living(job, folder), device=assignment.device if assignment else None)
    return _ended(job, folder, intake)


def _state_of_living(job: Job, folder: Path) -> str:
    if is_cancelled(folder):
        return states.CANCELLING
    if not job.attempt:
        return states.VALIDATING
    phase = job.progress.phase if job.progress else states.PREPARING
    return phase if phase in states.TRAINING else states.PREPARING


def _ended(job: Job, folder: Path, intake: IntakeReport | None) -> Job:
    """The job without a worker, as its files prove that it ended; as it is if they do not."""
    ending = Ending.read(folder, job.attempt)
    ended = replace(job, ended_at=ended_at(folder))
    if is_cancelled(folder):
        return replace(ended, state=states.CANCELLED)
    if ending is not None and ending.succeeded:
        return replace(ended, state=states.SUCCEEDED, metrics=ending.metrics, artifacts=ending.artifacts)
    if ending is not None:
        return replace(ended, state=states.FAILED, error=ending.error)
    if intake is not None and intake.error is not None:
        return replace(ended, state=states.FAILED, error=intake.error)
    return replace(ended, state=states.INTERRUPTED) if job.attempt else job


def _assignment(folder: Path) -> Assignment | None:
    """The task of the last trainer; None if none was started."""
    try:
        return Assignment.read(folder)
    except ValueError:
        return None
