"""A job as the routes show it: to the seed's clients in words, to v1's as an object."""

from __future__ import annotations

from typing import Any

from asr_lightning.server.engine import states
from asr_lightning.server.engine.records import Job

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
"""What stands for a state where the trainer has said nothing more; pinned by a test."""

NUMBERS = ("epoch", "step", "steps", "eta_s")


def words(job: Job) -> str:
    """The seed's ``progress``: a line for people, never a number."""
    if job.state == states.FAILED:
        return f"failed: {(job.error or {}).get('message') or 'no reason is known'}"
    told = job.progress or {}
    # What the trainer said is of use only as long as it is about the state that the store has.
    if job.state in TRAINING and told.get("phase") == job.state and told.get("message"):
        return str(told["message"])
    return WORDS[job.state]


def status(job: Job | None, tensorboard: str | None) -> dict[str, Any]:
    """The answer of ``GET /status``."""
    if job is None:
        return {
            "progress": "no training yet", "status": "idle", "tensorboard_url": tensorboard, "training_dir": None,
            "training_id": None, "state": None, "error": None, "message": None, "eta_s": None, "epoch": None,
        }  # fmt: skip
    told = (job.progress or {}) if job.state in states.TRAINING else {}
    return {
        "progress": words(job),
        "status": "busy" if job.state in states.ACTIVE else "idle",
        "tensorboard_url": tensorboard,
        "training_dir": f"jobs/{job.id}",  # relative to the home: the host's layout is nobody's business
        "training_id": job.id,
        "state": job.state,
        "error": job.error,
        "message": (job.error or {}).get("message") or told.get("message"),
        "eta_s": told.get("eta_s"),
        "epoch": told.get("epoch"),
    }


def progress(job: Job) -> dict[str, Any]:
    """How far ``job`` is, in numbers."""
    told = job.progress or {}
    fraction = 1.0 if job.state == states.SUCCEEDED else float(told.get("fraction") or 0.0)
    return {
        "phase": job.state,
        "message": words(job),
        "epochs": job.spec.epochs,
        "fraction": fraction,
        **{name: told.get(name) for name in NUMBERS},
    }


def job_object(job: Job, tensorboard: str | None) -> dict[str, Any]:
    """The job object of the v1 API."""
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
        "dataset": job.dataset,
        "metrics": job.metrics,
        "attempt": job.attempt,
        "resumed_from": job.resumed_from,
        "error": job.error,
        "links": {
            "events": f"{path}/events",
            "logs": f"{path}/logs",
            "report": f"{path}/report.html",
            "artifacts": f"{path}/artifacts",
            "tensorboard": tensorboard,
        },
    }
