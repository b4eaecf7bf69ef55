"""What a job's folder proves: how the intake and the trainer ended. Silence proves nothing."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr_lightning.durable.files import read_json

ARTIFACTS = ("model.tar.gz", "report.html", "report.json", "SHA256SUMS")
"""The only names that are handed out."""
UNNAMED = {"code": "internal", "message": "the worker ended without a reason: its log has more", "param": None}
HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Ending:
    """How a trainer ended.

    Attributes:
        error: None after a success.
        artifacts: sha256 by name.
        metrics: WER before and after, and the like.
    """

    error: dict[str, Any] | None
    artifacts: dict[str, str]
    metrics: dict[str, Any] | None

    @property
    def succeeded(self) -> bool:
        """Whether it did all it should."""
        return self.error is None


def read_ending(folder: Path, attempt: int) -> Ending | None:
    """How ``attempt`` of the job in ``folder`` ended; None where nothing proves it.

    A success counts only with artifacts on the disk that are what the exit record says.
    """
    found = read_json(folder / "exit.json")
    if found is None or found.get("attempt") != attempt:
        return None
    if found.get("code") != 0:
        return Ending(_error(found.get("error")), {}, None)
    artifacts = found.get("artifacts")
    if not isinstance(artifacts, dict) or "model.tar.gz" not in artifacts or not set(artifacts) <= set(ARTIFACTS):
        return None
    for name, digest in artifacts.items():
        if not HEX.fullmatch(str(digest)) or digest_of(folder / "artifacts" / name) != digest:
            return None
    metrics = found.get("metrics")
    return Ending(None, artifacts, metrics if isinstance(metrics, dict) else None)


def _error(found: Any) -> dict[str, Any]:
    if not isinstance(found, dict) or not isinstance(found.get("code"), str):
        return UNNAMED
    return {"code": found["code"], "message": str(found.get("message", "")), "param": found.get("param")}


def read_intake(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None] | None:
    """The data set as the intake describes it, and its error; None where it has not ended."""
    found = read_json(folder / "intake.json")
    if found is None or not isinstance(found.get("ok"), bool):
        return None
    dataset = {name: found.get(name) for name in ("utterances", "seconds", "sha256", "counts", "issues")}
    return dataset, None if found["ok"] else _error(found.get("error"))


def digest_of(path: Path) -> str | None:
    """sha256 of a file, in hex; None where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return None
