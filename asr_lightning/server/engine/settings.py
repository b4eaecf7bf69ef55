"""The settings of an engine: its home, its devices, and its limits."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIN_FREE_BYTES = 1 << 30
"""Free bytes on the disk that the server leaves untouched."""
_MODULE = (sys.executable, "-m")


@dataclass(frozen=True)
class EngineSettings:
    """Settings of an engine.

    Attributes:
        home: The folder that holds everything the server writes.
        devices: The devices to train on, such as "cpu", "mps" or "cuda:0". Each runs one trainer at a time.
        models: The models as the trainer's ``--model`` takes them, by the name that clients may ask for.
        queue_cap: Largest number of active jobs.
        grace_s: Seconds that a cancelled worker gets to stop by itself.
        auto_resumes: How often a job is resumed automatically after its trainer died.
        keep_archives: Whether uploaded archives are kept after they were read.
        retention_s: Seconds after its end until a job is deleted; None keeps all jobs.
        max_wall_s: Seconds after which a trainer is stopped.
        inspection_s: Seconds after which an intake is stopped.
        max_log_bytes: Size from which a worker's log keeps only its end.
        min_free_bytes: Free bytes on the disk below which nothing is accepted.
        reserve_bytes: Bytes that are kept so that deleting and cancelling work on a full disk.
        poll_s: Seconds that the supervisor sleeps between two steps.
        trainer, intake: Command lines of the workers, to which the job's folder is added.
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
    min_free_bytes: int = MIN_FREE_BYTES
    reserve_bytes: int = 16 << 20
    poll_s: float = 0.2
    trainer: tuple[str, ...] = (*_MODULE, "asr_lightning", "run-job")
    intake: tuple[str, ...] = (*_MODULE, "asr_lightning.server.intake")
