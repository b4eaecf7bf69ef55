"""What the intake says: issues of single clips, and the one error that refuses a whole upload."""

from __future__ import annotations

import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

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
    """One finding, with a code of the data checks.

    Attributes:
        code: "D01" … "D32".
        level: E: the clip is left out. W: doubtful. I: information.
        message: Cause and remedy.
        name: The client's file name, None for the data set.
        uid: The server's name of the clip, None where it has none.
    """

    code: str
    level: Level
    message: str
    name: str | None = None
    uid: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """Without control characters, whatever the client's names hold."""
        name = None if self.name is None else printable(self.name)
        return {
            "code": self.code, "level": self.level, "uid": self.uid, "name": name, "message": printable(self.message)
        }  # fmt: skip


@dataclass
class Verdict:
    """All findings of one upload.

    Attributes:
        issues: In the order found.
        error: Set when the upload is refused.
        utterances: Usable clips.
        seconds: Their length together.
        sha256: Of their sounds, texts and splits; None when refused.
    """

    issues: list[Issue] = field(default_factory=list)
    error: IntakeError | None = None
    utterances: int = 0
    seconds: float = 0.0
    sha256: str | None = None

    def add(self, code: str, level: Level, message: str, name: str | None = None, uid: str | None = None) -> None:
        """Append an issue."""
        self.issues.append(Issue(code, level, message, name, uid))

    def as_json(self) -> dict[str, Any]:
        """The content of intake.json; the worst issues first, since only the first ones are listed."""
        ordered = sorted(self.issues, key=lambda issue: SEVERITY[issue.level])
        error = None
        if self.error:
            error = {"code": self.error.code, "message": str(self.error), "param": "data"}
        return {
            "ok": self.error is None,
            "error": error,
            "utterances": self.utterances,
            "seconds": round(self.seconds, 3),
            "sha256": self.sha256,
            "issues": [issue.as_json() for issue in ordered[:MAX_ISSUES]],
            "counts": dict(sorted(Counter(issue.code for issue in self.issues).items())),
        }


def printable(text: str, limit: int = MAX_CHARS) -> str:
    """``text`` on one line, without control, format or surrogate characters, and not endless."""
    kept = "".join("�" if unicodedata.category(char)[0] == "C" else char for char in " ".join(text.split()))
    return kept if len(kept) <= limit else kept[:limit] + "…"
