"""The states of a job, and which state may follow which."""

from __future__ import annotations

from typing import Literal, get_args

from asr_lightning.job_folder.progress import PHASES

State = Literal[
    "created", "validating", "queued", "preparing", "running", "evaluating", "packaging", "cancelling", "interrupted",
    "succeeded", "failed", "cancelled", "purged",
]  # fmt: skip
STATES = frozenset(get_args(State))

CREATED, VALIDATING, QUEUED = "created", "validating", "queued"
PREPARING, RUNNING, EVALUATING, PACKAGING = PHASES
CANCELLING, CANCELLED = "cancelling", "cancelled"
INTERRUPTED, SUCCEEDED, FAILED, PURGED = "interrupted", "succeeded", "failed", "purged"

WAITING = frozenset({CREATED, VALIDATING, QUEUED})
TRAINING: frozenset[str] = frozenset(PHASES)
"""The states in which a job holds a device."""
ACTIVE = WAITING | TRAINING | {CANCELLING}
TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})
RESUMABLE = frozenset({INTERRUPTED, FAILED, CANCELLED})
_ENDS = frozenset({FAILED, INTERRUPTED})
NEXT: dict[str, frozenset[str]] = {
    CREATED: frozenset({VALIDATING, FAILED, CANCELLING}),
    VALIDATING: frozenset({QUEUED, FAILED, CANCELLING}),
    QUEUED: frozenset({PREPARING, FAILED, CANCELLING}),
    # A server that was down for a while finds a trainer several phases later.
    **{phase: frozenset({*PHASES[number + 1 :], CANCELLING, SUCCEEDED}) | _ENDS for number, phase in enumerate(PHASES)},
    CANCELLING: frozenset({CANCELLED}),
    # A resumed job starts at ``created`` if its archive was never read.
    INTERRUPTED: frozenset({CREATED, QUEUED, CANCELLED, PURGED}),
    SUCCEEDED: frozenset({PURGED}),
    FAILED: frozenset({CREATED, QUEUED, PURGED}),
    CANCELLED: frozenset({CREATED, QUEUED, PURGED}),
    PURGED: frozenset(),
}
"""The states that may follow each state."""
