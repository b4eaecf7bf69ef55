"""``intake.json``: what the intake says of the data that a client sent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from asr_lightning.durable.files import read_json, write_json
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.failure import Failure


class ReportedIssue(TypedDict):
    """Something wrong or doubtful about one clip, or about the whole data set."""

    code: str
    level: str
    uid: str | None
    name: str | None
    message: str


class Dataset(TypedDict):
    """What is known of a data set. A value is None only if the intake did not write it."""

    utterances: int | None
    seconds: float | None
    sha256: str | None
    counts: dict[str, int] | None
    issues: list[ReportedIssue] | None


@dataclass(frozen=True)
class IntakeReport:
    """The result of one intake.

    Attributes:
        error: Why the data were refused; None if they can be used.
        dataset: What is known of the data, also of refused ones.
    """

    error: Failure | None
    dataset: Dataset

    def write(self, folder: Path) -> None:
        """Write the ``intake.json`` of the job in ``folder``.

        Raises:
            OSError: The file cannot be written.
        """
        write_json(folder / layout.INTAKE_REPORT, self.as_dict())

    def as_dict(self) -> dict[str, object]:
        """The content of ``intake.json``."""
        error = None if self.error is None else self.error.as_dict()
        return {"ok": self.error is None, "error": error, **self.dataset}

    @classmethod
    def read(cls, folder: Path) -> IntakeReport | None:
        """The report about the job in ``folder``; None if the intake has not ended."""
        document = read_json(folder / layout.INTAKE_REPORT)
        if document is None or not isinstance(document.get("ok"), bool):
            return None
        dataset = Dataset(
            utterances=document.get("utterances"),
            seconds=document.get("seconds"),
            sha256=document.get("sha256"),
            counts=document.get("counts"),
            issues=document.get("issues"),
        )
        return cls(None if document["ok"] else Failure.from_json(document.get("error")), dataset)
