"""``progress.json``: how far a training is. The trainer writes it; the server and the renting client read it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypedDict, cast, get_args

from asr_lightning.durable.files import read_json, write_json
from asr_lightning.job_folder import layout

Phase = Literal["preparing", "running", "evaluating", "packaging"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""The phases of a training, in order."""
PREPARING = PHASES[0]
LARGEST = 1e300


class ValidationResult(TypedDict):
    """The scores of one pass over the dev set. The server passes it on to clients as it is."""

    epoch: float
    step: int
    wer: float
    loss: float | None


class Position(TypedDict, total=False):
    """The fields of ``Progress`` that a trainer changes within a phase."""

    epoch: float | None
    epochs: int | None
    step: int | None
    steps: int | None
    fraction: float
    eta_s: float | None
    resumed_from: str | None
    checks: list[ValidationResult]
    base_wer: float | None


class ProgressChanges(Position, total=False):
    """The fields of ``Progress`` that a trainer changes."""

    phase: Phase
    message: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far one attempt at a training is.

    Attributes:
        attempt: Number of the attempt, from 1 on; 0 before the first one.
        phase: One of ``PHASES``; another word only in a damaged file.
        message: What is being done, for people.
        epoch: Finished epochs of the current fold.
        epochs: Planned epochs of a fold.
        step: Finished optimizer steps of all folds.
        steps: Planned optimizer steps of all folds.
        fraction: Finished share of the whole job, from 0 to 1.
        eta_s: Estimated seconds until the last training step; None if that is not known, or no step is left.
        resumed_from: File name of the checkpoint that this attempt started from; None if it started afresh.
        checks: The validation results so far.
        base_wer: WER of the base model on the dev set.
    """

    attempt: int
    phase: str
    message: str
    epoch: float | None = None
    epochs: int | None = None
    step: int | None = None
    steps: int | None = None
    fraction: float = 0.0
    eta_s: float | None = None
    resumed_from: str | None = None
    checks: list[ValidationResult]
    base_wer: float | None = None

    def write(self, folder: Path) -> None:
        """Replace the ``progress.json`` of the job in ``folder``.

        Raises:
            OSError: The file cannot be written.
            ValueError: A number is not finite.
        """
        write_json(folder / layout.PROGRESS, self.as_dict())

    @classmethod
    def read(cls, folder: Path) -> Progress | None:
        """The progress of the job in ``folder``, or None if the file is missing or damaged."""
        return cls.from_json(read_json(folder / layout.PROGRESS))

    def as_dict(self) -> dict[str, object]:
        """The content of ``progress.json``."""
        return asdict(self)

    def as_event(self) -> dict[str, object]:
        """The data of a progress event, which holds only the newest validation result."""
        return {
            "phase": self.phase,
            "message": self.message,
            "epoch": self.epoch,
            "epochs": self.epochs,
            "fraction": self.fraction,
            "checks": self.checks[-1:],
            "base_wer": self.base_wer,
        }

    def is_news_after(self, earlier: Progress) -> bool:
        """Whether phase, message or validation results have changed since the event about ``earlier``."""
        return (self.phase, self.message, self.checks) != (earlier.phase, earlier.message, earlier.checks)

    @classmethod
    def from_json(cls, document: object) -> Progress | None:
        """The inverse of ``as_dict``; None if ``document`` is not an object or is empty.

        A field that is missing or of another type gets its default.
        """
        if not isinstance(document, dict) or not document:
            return None
        return cls(
            attempt=_integer(document.get("attempt")) or 0,
            phase=_text(document.get("phase")) or "",
            message=_text(document.get("message")) or "",
            epoch=_number(document.get("epoch")),
            epochs=_integer(document.get("epochs")),
            step=_integer(document.get("step")),
            steps=_integer(document.get("steps")),
            fraction=_number(document.get("fraction")) or 0.0,
            eta_s=_number(document.get("eta_s")),
            resumed_from=_text(document.get("resumed_from")),
            checks=_validation_results(document.get("checks")),
            base_wer=_number(document.get("base_wer")),
        )


def _validation_results(value: object) -> list[ValidationResult]:
    entries = value if isinstance(value, list) else []
    return [cast(ValidationResult, entry) for entry in entries if isinstance(entry, dict)]


def _number(value: object) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return value if abs(value) < LARGEST else None  # a larger integer cannot become a float


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
