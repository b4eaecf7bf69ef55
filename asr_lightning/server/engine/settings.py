"""How one engine works: where, on which devices, and its limits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODULE = (sys.executable, "-m")


@dataclass(frozen=True)
class EngineSettings:
    """Settings of an engine.

    Attributes:
        home: Everything that the server writes is under it.
        devices: One trainer runs on each: "cpu", "mps", "cuda:0", …
        models: What the trainer's ``--model`` takes, by the name that clients may ask for.
        queue_cap: Most active jobs.
        grace_s: How long a cancelled worker may take to stop by itself, in seconds.
        auto_resumes: How often a job goes on by itself after its trainer died.
        keep_archives: Keep the uploaded archive after it was read.
        retention_s: Jobs that ended so long ago are deleted; None keeps them.
        max_wall_s: A trainer that runs longer is stopped, in seconds.
        inspection_s: The same for the intake.
        max_log_bytes: A worker's log that grows longer keeps only its end.
        min_free_bytes: With less space on the disk nothing is accepted.
        poll_s: Pause of the supervisor, in seconds.
        trainer, intake: Command lines of the workers; the job's folder is added.
    """

    home: Path
    devices: tuple[str, ...] = ("cpu",)
    models: Mapping[str, str] = field(default_factory=dict)
    queue_cap: int = 20
    grace_s: float = 30.0
    auto_resumes: int = 2
    keep_archives: bool = False
    retention_s: float | None = None
    max_wall_s: float = 24 * 3600.0
    inspection_s: float = 3600.0
    max_log_bytes: int = 8 << 20
    min_free_bytes: int = 1 << 30
    poll_s: float = 0.2
    trainer: tuple[str, ...] = (*MODULE, "asr_lightning", "run-job")
    intake: tuple[str, ...] = (*MODULE, "asr_lightning.server.intake")
