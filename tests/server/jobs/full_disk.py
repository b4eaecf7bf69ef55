"""Cancel and delete jobs on a disk that is really full: ``python -m tests.server.jobs.full_disk FOLDER``.

It runs in a mount namespace of its own, where FOLDER becomes a small file system in memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from asr_lightning.job_folder import processes
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.health import is_disk_full
from tests.server import driver
from tests.server.driver import reach, submit

QUIET = (
    sys.executable,
    "-c",
    "import time; from asr_lightning.job_folder import worker; worker.hold_locks(); time.sleep(99)",
)
RESERVE = 1 << 20


def fill(folder: Path) -> None:
    """Write until no byte is free."""
    with (folder / f"filler-{os.urandom(2).hex()}").open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                assert is_disk_full(error)
    assert os.statvfs(folder).f_bavail == 0


def run(folder: Path) -> None:
    home = folder / "home"
    with driver.running(home, devices=("cpu", "mps"), reserve_bytes=RESERVE, min_free_bytes=1) as engine:
        done = [reach(engine, submit(engine), "succeeded") for _ in range(2)]
        for job in done:
            (engine.folder(job.id) / "run" / "large").write_bytes(bytes(1 << 20))
        engine.settings = engine._supervisor.settings = driver.settings(
            home, devices=("cpu", "mps"), reserve_bytes=RESERVE, trainer=QUIET, min_free_bytes=1
        )
        first, second = (reach(engine, submit(engine), "preparing") for _ in range(2))
        driver.wait(lambda: processes.of_job(first.id) and processes.of_job(second.id), "both trainers")
        driver.wait(lambda: engine.health.reserve.size == RESERVE, "the reserve")
        cancel(engine, folder, first.id, second.id)
        delete(engine, folder, *(job.id for job in done))
        for filler in folder.glob("filler*"):
            filler.unlink()
        reach(engine, second, "cancelled")
        engine.health._next_fill = 0.0
        driver.wait(lambda: engine.health.reserve.size == RESERVE, "the reserve to be taken again")


def cancel(engine: Engine, folder: Path, first: str, second: str) -> None:
    """The first with the reserve, the second after it was used up."""
    engine.store.shrink()  # else there is room in the write-ahead log
    fill(folder)
    assert engine.cancel(first).state == "cancelling"
    reach(engine, engine.job(first), "cancelled")
    assert not processes.of_job(first)
    assert engine.health.reserve.size == 0
    engine.store.shrink()
    fill(folder)
    assert engine.cancel(second).state == "cancelling"
    driver.wait(lambda: not processes.of_job(second), "the trainer to end")
    assert engine.health.failed_writes > 0
    assert {trouble.code for trouble in engine.health.troubles()} == {"disk_full", "failed_writes"}


def delete(engine: Engine, folder: Path, *jobs: str) -> None:
    """Without the reserve: what is deleted makes room for the record of it."""
    for job in jobs:
        engine.store.shrink()
        fill(folder)
        assert engine.purge(job).bytes > 1 << 20
        assert engine.job(job).state == "purged"
        assert not engine.home.job(job).exists()


if __name__ == "__main__":
    target = Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(target)], check=True)
    run(target)
    print("worked")
