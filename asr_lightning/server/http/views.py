"""A job as the routes show it: as one line of text in ``GET /status``, as an object in the v1 API."""

from __future__ import annotations

from asr_lightning.server.engine import states
from asr_lightning.server.engine.records import Event, Job

WAITING = {
    states.CREATED: "checking data",
    states.VALIDATING: "checking data",
    states.QUEUED: "waiting for the device",
}
TRAINING = {
    states.PREPARING: "loading base model",
    states.RUNNING: "training",
    states.EVALUATING: "running fine-tuned model evaluation",
    states.PACKAGING: "packaging model",
}
ENDED = {
    states.CANCELLING: "cancelling",
    states.SUCCEEDED: "finished",
    states.CANCELLED: "cancelled",
    states.INTERRUPTED: "interrupted",
    states.PURGED: "deleted",
}
WORDS = WAITING | TRAINING | ENDED
"""The line that stands for a state unless the trainer gave a better one; pinned by a test."""


def words(job: Job) -> str:
    """What a job is doing, in a line for people."""
    if job.state == states.FAILED:
        return f"failed: {(job.error and job.error.message) or 'no reason is known'}"
    # The trainer's message is shown only if it is about the state that the store has.
    if job.state in TRAINING and job.progress and job.progress.phase == job.state and job.progress.message:
        return job.progress.message
    if job.state == states.SUCCEEDED and job.damage:
        return f"{WORDS[job.state]}, but {job.damage[0].message}"
    return WORDS[job.state]


def status(job: Job | None, tensorboard: str | None) -> dict[str, object]:
    """The answer of ``GET /status``."""
    if job is None:
        return {
            "progress": "no training yet", "status": "idle", "tensorboard_url": tensorboard, "training_dir": None,
            "training_id": None, "state": None, "error": None, "message": None, "eta_s": None, "epoch": None,
        }  # fmt: skip
    current = job.progress if job.state in states.TRAINING else None
    return {
        "progress": words(job),
        "status": "busy" if job.state in states.ACTIVE else "idle",
        "tensorboard_url": tensorboard,
        "training_dir": f"jobs/{job.id}",  # relative to the home, so that it does not reveal the host's layout
        "training_id": job.id,
        "state": job.state,
        "error": _error(job),
        "message": (job.error and job.error.message) or (current and current.message) or verdict(job),
        "eta_s": _eta_s(job),
        "epoch": current.epoch if current else None,
    }


def progress(job: Job) -> dict[str, object]:
    """How far a job is, in numbers."""
    last = job.progress
    fraction = 1.0 if job.state == states.SUCCEEDED else float(last.fraction if last else 0.0)
    return {
        "phase": job.state,
        "message": f"{words(job)}: {verdict(job)}" if verdict(job) and not job.damage else words(job),
        "epochs": job.spec.epochs,
        "fraction": fraction,
        "epoch": last.epoch if last else None,
        "step": last.step if last else None,
        "steps": last.steps if last else None,
        "eta_s": _eta_s(job),
    }


def verdict(job: Job) -> str | None:
    """Whether the training helped, in a sentence; this also says when the untouched model was kept."""
    return (job.metrics or {}).get("verdict") if job.state == states.SUCCEEDED else None


def _eta_s(job: Job) -> float | None:
    """Estimated seconds until the last training step; None while other work is done, and for old files that say 0."""
    return (job.progress and job.progress.eta_s) or None if job.state in states.TRAINING else None


def event_object(event: Event) -> dict[str, object]:
    """The event object of the v1 API."""
    return {"seq": event.seq, "time": event.time, "kind": event.kind, "data": event.data}


def _error(job: Job) -> dict[str, str | None] | None:
    return None if job.error is None else job.error.as_dict()


def job_object(job: Job, tensorboard: str | None, with_issues: bool = True) -> dict[str, object]:
    """The job object of the v1 API; ``with_issues`` shows what was found in its data, which may quote them."""
    path = f"/v1/jobs/{job.id}"
    return {
        "id": job.id,
        "object": "job",
        "state": job.state,
        "progress": progress(job),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "base_model": job.spec.model,
        "base_revision": None,
        "language": job.spec.language,
        "params": {"epochs": job.spec.epochs, "seed": job.spec.seed},
        "owner": job.owner,
        "dataset": job.dataset if with_issues or job.dataset is None else {**job.dataset, "issues": None},
        "metrics": job.metrics,
        "attempt": job.attempt,
        "resumed_from": job.resumed_from,
        "error": _error(job),
        "damage": [bad.as_dict() for bad in job.damage],
        "links": {
            "events": f"{path}/events",
            "logs": f"{path}/logs",
            "report": f"{path}/report.html",
            "artifacts": f"{path}/artifacts",
            "tensorboard": tensorboard,
        },
    }
