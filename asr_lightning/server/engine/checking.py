"""The check of a data set without a training: the intake alone, waited for."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asr_lightning.durable.files import read_json
from asr_lightning.durable.ids import new_id
from asr_lightning.job_folder import processes
from asr_lightning.server.engine.home import Home

CHECK_S = 600.0


def check(home: Home, intake: Sequence[str], archive: Path) -> dict[str, Any]:
    """What the intake says of ``archive``, which is taken; nothing of it is kept.

    Raises:
        OSError: The disk is full.
        TimeoutError: It took longer than ten minutes.
        RuntimeError: The intake itself broke off.
    """
    folder = home.uploads / new_id()
    try:
        (folder / "input").mkdir(parents=True, mode=0o700)
        archive.rename(folder / "input" / "archive.tar.gz")
        env = processes.environment(folder.name, folder, secrets=False)
        command = [*intake, "--check_only"]
        with processes.start(command, folder, folder / "logs" / "intake.log", env, []) as child:
            try:
                child.wait(CHECK_S)
            except subprocess.TimeoutExpired as error:
                processes.end_all(folder.name)
                raise TimeoutError(f"the check took more than {CHECK_S:.0f} s: send fewer clips") from error
        found = read_json(folder / "intake.json")
    finally:
        processes.end_all(folder.name)
        home.discard(folder)
    if found is None:
        raise RuntimeError("the check of the data broke off")
    return found
