"""``exit.json``: how a training ended. Without it, nothing proves that a training ended by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from asr_lightning.durable.files import read_json, write_json
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.digests import digest_of
from asr_lightning.job_folder.failure import Failure

SHA256 = re.compile(r"[0-9a-f]{64}")


class Metrics(TypedDict, total=False):
    """The main scores of a finished training, from ``Outcome.as_metrics``. They are passed on to clients unread.

    ``before``, ``after`` and ``delta`` are word error rates on the test clips and their difference, with its confidence
    ``interval`` and the probability ``p_better`` that the model improved. ``canary`` holds rates on general speech.
    """

    before: float
    after: float
    delta: float
    interval: list[float]
    p_better: float
    canary: dict[str, dict[str, float]] | None
    verdict: str


@dataclass(frozen=True)
class Ending:
    """How one attempt at a training ended.

    Attributes:
        attempt: Number of the attempt.
        error: Why it failed; None after a success.
        artifacts: SHA-256 of each artifact by its name; empty after a failure.
        metrics: Scores before and after training; None after a failure.
    """

    attempt: int
    error: Failure | None
    artifacts: Mapping[str, str]
    metrics: Metrics | None

    @classmethod
    def failed(cls, attempt: int, error: Failure) -> Ending:
        """The ending of an attempt that failed or was stopped."""
        return cls(attempt, error, {}, None)

    @property
    def succeeded(self) -> bool:
        """Whether the training did everything that it was asked to do."""
        return self.error is None

    @property
    def code(self) -> int:
        """The exit status of the trainer."""
        return 0 if self.succeeded else 1

    def write(self, folder: Path) -> None:
        """Write the ``exit.json`` of the job in ``folder``.

        Raises:
            OSError: The file cannot be written.
        """
        content = {
            "attempt": self.attempt,
            "code": self.code,
            "error": None if self.error is None else self.error.as_dict(),
            "artifacts": dict(self.artifacts),
            "metrics": self.metrics,
        }
        write_json(folder / layout.EXIT_RECORD, content)

    @classmethod
    def from_json(cls, document: object) -> Ending | None:
        """What ``exit.json`` claims; None if it is missing or damaged. The artifacts are not compared with it."""
        if not isinstance(document, dict) or not isinstance(document.get("attempt"), int):
            return None
        attempt = document["attempt"]
        if document.get("code") != 0:
            return cls.failed(attempt, Failure.from_json(document.get("error")))
        artifacts = document.get("artifacts")
        named = artifacts.items() if isinstance(artifacts, dict) else ()
        return cls(attempt, None, {str(name): str(sha256) for name, sha256 in named}, metrics_of(document))

    @classmethod
    def read(cls, folder: Path, attempt: int) -> Ending | None:
        """How ``attempt`` of the job in ``folder`` ended; None if nothing proves that it ended.

        A success counts only if the artifacts on the disk are those whose hashes ``exit.json`` names.
        """
        ending = cls.from_json(read_json(folder / layout.EXIT_RECORD))
        if ending is None or ending.attempt != attempt:
            return None
        if ending.error is not None:
            return ending
        if not {layout.MODEL_ARCHIVE} <= set(ending.artifacts) <= set(layout.ARTIFACT_NAMES):
            return None
        for name, sha256 in ending.artifacts.items():
            path = folder / layout.ARTIFACTS / name
            if not SHA256.fullmatch(sha256) or not path.is_file() or digest_of(path) != sha256:
                return None
        return ending


def metrics_of(document: Mapping[str, object]) -> Metrics | None:
    """The ``metrics`` of a JSON document; None if there are none."""
    metrics = document.get("metrics")
    return cast(Metrics, metrics) if isinstance(metrics, dict) else None
