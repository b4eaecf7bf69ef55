"""The result of an intake: issues with single clips, and the one error that refuses a whole upload."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from asr_lightning.job_folder.failure import Failure
from asr_lightning.job_folder.intake_report import Dataset, IntakeReport, ReportedIssue

Code = Literal["dataset_invalid", "too_large", "unsupported_media", "disk_full"]
Level = Literal["E", "W", "I"]
MAX_ISSUES = 200
MAX_CHARS = 400
SEVERITY = {"E": 0, "W": 1, "I": 2}


class IntakeError(ValueError):
    """The whole upload is refused; the message says why and what to do."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(printable(message))
        self.code = code


@dataclass(frozen=True)
class Issue:
    """Something wrong or doubtful about a clip, or about the whole data set.

    Attributes:
        code: The kind of issue, from "D01" to "D32".
        level: "E": the clip is left out; "W": it is doubtful; "I": for information.
        message: Cause and remedy.
        name: The client's file name; None for an issue of the whole data set.
        uid: The server's name of the clip; None if it has none.
    """

    code: str
    level: Level
    message: str
    name: str | None = None
    uid: str | None = None

    def as_json(self) -> ReportedIssue:
        """The issue for the report, without the control characters that a client's file name may hold."""
        name = None if self.name is None else printable(self.name)
        return ReportedIssue(code=self.code, level=self.level, uid=self.uid, name=name, message=printable(self.message))


@dataclass
class Verdict:
    """Everything that the intake finds out about one upload.

    Attributes:
        issues: The issues, in the order in which they were noticed.
        error: Why the upload is refused; None if it can be used.
        utterances: Number of usable clips.
        seconds: Total length of the usable clips.
        sha256: Hash of their recordings, texts and splits; None for a refused upload.
    """

    issues: list[Issue] = field(default_factory=list)
    error: IntakeError | None = None
    utterances: int = 0
    seconds: float = 0.0
    sha256: str | None = None

    def add(self, code: str, level: Level, message: str, name: str | None = None, uid: str | None = None) -> None:
        """Add an issue."""
        self.issues.append(Issue(code, level, message, name, uid))

    def report(self) -> IntakeReport:
        """The content of ``intake.json``; the worst issues come first, since only ``MAX_ISSUES`` are listed."""
        ordered = sorted(self.issues, key=lambda issue: SEVERITY[issue.level])
        dataset = Dataset(
            utterances=self.utterances,
            seconds=round(self.seconds, 3),
            sha256=self.sha256,
            counts=dict(sorted(Counter(issue.code for issue in self.issues).items())),
            issues=[issue.as_json() for issue in ordered[:MAX_ISSUES]],
        )
        return IntakeReport(Failure(self.error.code, str(self.error), "data") if self.error else None, dataset)


def printable(text: str, limit: int = MAX_CHARS) -> str:
    """``text`` on one line, without control, format or surrogate characters, and cut to ``limit`` characters."""
    line = "".join("�" if unicodedata.category(char)[0] == "C" else char for char in " ".join(text.split()))
    return line if len(line) <= limit else line[:limit] + "…"
