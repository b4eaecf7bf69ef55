"""Take jobs through every fault point of the engine, in a process that may be killed anywhere.

``python -m tests.server.jobs.life HOME`` prints the id of each job as soon as it is acknowledged.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from asr_lightning.server.engine.engine import Engine
from tests.server import driver
from tests.server.driver import reach, submit


def live(engine: Engine, acknowledge: Callable[[str], object]) -> None:
    """Two jobs: one that is trained and deleted, one that is cancelled, resumed and trained."""
    first = submit(engine, key="first")
    acknowledge(first.id)
    second = submit(engine, "brief", key="second")
    acknowledge(second.id)
    reach(engine, first, "succeeded")
    reach(engine, second, "running", "evaluating", "packaging", "succeeded")
    engine.cancel(second.id)
    if reach(engine, second, "cancelled", "succeeded").state == "cancelled":
        engine.resume(second.id)
    reach(engine, second, "succeeded")
    engine.purge(first.id)


def main(home: Path) -> None:
    """Live it, and leave the engine running as a killed server would."""
    engine = Engine(driver.settings(home, devices=("cpu", "mps")))
    engine.start()
    live(engine, lambda job_id: print(job_id, flush=True))
    engine.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
