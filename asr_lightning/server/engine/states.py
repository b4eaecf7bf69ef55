"""The states of a job, and which may follow which."""

from __future__ import annotations

CREATED, VALIDATING, QUEUED = "created", "validating", "queued"
PREPARING, RUNNING, EVALUATING, PACKAGING = "preparing", "running", "evaluating", "packaging"
CANCELLING, CANCELLED = "cancelling", "cancelled"
INTERRUPTED, SUCCEEDED, FAILED, PURGED = "interrupted", "succeeded", "failed", "purged"

PHASES = (PREPARING, RUNNING, EVALUATING, PACKAGING)
"""A trainer's, in order; a job in one of them holds a device."""

WAITING = frozenset({CREATED, VALIDATING, QUEUED})
TRAINING = frozenset(PHASES)
ACTIVE = WAITING | TRAINING | {CANCELLING}
TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELLED})
RESUMABLE = frozenset({INTERRUPTED, FAILED, CANCELLED})
STATES = ACTIVE | TERMINAL | {INTERRUPTED, PURGED}

_ENDS = frozenset({FAILED, INTERRUPTED})
NEXT: dict[str, frozenset[str]] = {
    CREATED: frozenset({VALIDATING, FAILED, CANCELLING}),
    VALIDATING: frozenset({QUEUED, FAILED, CANCELLING}),
    QUEUED: frozenset({PREPARING, FAILED, CANCELLING}),
    # A supervisor that was away finds a trainer several phases on.
    **{phase: frozenset({*PHASES[number + 1 :], CANCELLING, SUCCEEDED}) | _ENDS for number, phase in enumerate(PHASES)},
    CANCELLING: frozenset({CANCELLED}),
    # Back to created where the archive was never read.
    INTERRUPTED: frozenset({CREATED, QUEUED, CANCELLED, PURGED}),
    SUCCEEDED: frozenset({PURGED}),
    FAILED: frozenset({CREATED, QUEUED, PURGED}),
    CANCELLED: frozenset({CREATED, QUEUED, PURGED}),
    PURGED: frozenset(),
}
"""What may follow each state."""
