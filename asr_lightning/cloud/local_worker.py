"""``python -m asr_lightning.cloud.local_worker VOLUME``: calls ``remote.train`` as a rented machine does."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from asr_lightning.cloud import local_volume, remote
from asr_lightning.durable.files import read_json
from asr_lightning.job_folder import processes, worker
from asr_lightning.training.logs import configure_logging


def main(folder: Path) -> int:
    """Check out the volume, train, and commit; returns the exit status."""
    worker.hold_locks()
    configure_logging()
    call = read_json(folder / "call.json")
    if call is None:
        raise ValueError(f"{folder} holds no call.json: the local provider starts this")
    request, work = call["request"], folder / "work"
    # A signal handler interrupts the function, which would otherwise restart the trainer that is killed here.
    signal.signal(signal.SIGALRM, lambda *_: _time_out(request["id"]))
    signal.setitimer(signal.ITIMER_REAL, call["seconds"])
    local_volume.check_out(folder, work)
    try:
        remote.train(work, request, lambda: local_volume.commit(folder, work), **call["options"])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return 0


def _time_out(request_id: str) -> None:
    """Kill everything at once, as a provider does."""
    processes.end_all(request_id)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
