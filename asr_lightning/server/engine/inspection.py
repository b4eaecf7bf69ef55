"""The inspection of a data set without a training: runs the intake alone, and waits for it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from asr_lightning.durable.ids import new_id
from asr_lightning.job_folder import layout, processes
from asr_lightning.job_folder.intake_report import IntakeReport
from asr_lightning.server.engine.home import Home

TIMEOUT_S = 600.0


def inspect(home: Home, intake: Sequence[str], archive: Path) -> IntakeReport:
    """What the intake says of ``archive``, which is moved and deleted with everything that was made of it.

    Args:
        home: The server's home.
        intake: Command line of the intake.
        archive: The client's data.

    Raises:
        OSError: The disk is full.
        TimeoutError: It took longer than ten minutes.
        RuntimeError: The intake ended without a report.
    """
    folder = home.uploads / new_id()
    target = folder / layout.ARCHIVE
    try:
        target.parent.mkdir(parents=True, mode=0o700)
        archive.rename(target)
        env = processes.environment(folder.name, folder, secrets=False)
        with processes.start([*intake, "--check_only"], folder, "intake", env, []) as child:
            try:
                child.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                processes.end_all(folder.name)
                raise TimeoutError(f"the check took more than {TIMEOUT_S:.0f} s: send fewer clips") from error
        report = IntakeReport.read(folder)
    finally:
        processes.end_all(folder.name)
        home.discard(folder)
    if report is None:
        raise RuntimeError("the check of the data broke off")
    return report
