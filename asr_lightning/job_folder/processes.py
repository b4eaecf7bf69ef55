"""Start a worker so that it outlives the server, find what is left of it, and end it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from asr_lightning.durable import faults
from asr_lightning.durable.locks import take_lock
from asr_lightning.job_folder.worker import JOB, LOCKS

KEPT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "TZ", "SYSTEMROOT", faults.VARIABLE)
KEPT_OF = ("CUDA_", "HF_", "OMP_", "MKL_", "NVIDIA_", "PYTORCH_", "TORCH_", "XDG_")
_CHILDREN: list[subprocess.Popen[bytes]] = []
SECRETS = frozenset({"HF_TOKEN", "HF_TOKEN_PATH"})


def environment(job_id: str, folder: Path, secrets: bool) -> dict[str, str]:
    """What a worker gets to see: no token of the server, and one of the model hub only where it may need it."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name in KEPT or name.startswith(KEPT_OF)) and (secrets or name not in SECRETS)
    }
    home = {"HOME": os.environ.get("HOME", str(folder))} if secrets else {"HOME": str(folder)}
    return {**kept, **home, JOB: job_id, "TMPDIR": str(folder / "tmp"), "PYTHONUNBUFFERED": "1"}


def start(
    command: Sequence[str], folder: Path, log: Path, env: dict[str, str], locks: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start a worker in a session of its own, with the descriptors of its locks.

    Its output goes to a file, never to a pipe of the server, whose death would then end it.
    """
    log.parent.mkdir(exist_ok=True)
    (folder / "tmp").mkdir(exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, str(folder)],
            cwd=folder,
            env={**env, LOCKS: ",".join(str(number) for number in locks)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(locks),
        )


def launch(job_id: str, folder: Path, command: Sequence[str], name: str, device_locks: Sequence[int]) -> None:
    """Start the worker ``name`` of a job: it holds ``worker.lock`` for life, and the locks of its device.

    Raises:
        OSError: It could not be started.
        RuntimeError: One is running already.
    """
    lock = take_lock(folder / "worker.lock")
    if lock is None:
        raise RuntimeError(f"a worker of {job_id} is running already")
    try:
        env = environment(job_id, folder, secrets=name == "trainer")
        _CHILDREN.append(start(command, folder, folder / "logs" / f"{name}.log", env, [lock, *device_locks]))
    finally:
        os.close(lock)


def cap_log(folder: Path, name: str, most: int) -> None:
    """Move the end of a log that has grown over ``most`` bytes to ``<name>.log.1``, and begin it anew.

    The worker appends to the open file, so it cannot be renamed; what it writes meanwhile may be lost.
    """
    log = folder / "logs" / f"{name}.log"
    if not log.exists() or log.stat().st_size <= most:
        return
    with log.open("rb") as file:
        file.seek(-most // 2, os.SEEK_END)
        log.with_name(f"{name}.log.1").write_bytes(file.read(most // 2))
    os.truncate(log, 0)


def reap() -> None:
    """Take note of workers that ended: as zombies they would keep nothing but their number."""
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]


def of_job(job_id: str) -> list[psutil.Process]:
    """Every process of this user that was started for ``job_id``, however deep: its environment says so."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(JOB) == job_id:
                found.append(process)
        except (psutil.Error, OSError):
            continue  # it ended, or is another user's
    return [process for process in found if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def signal_all(job_id: str, number: signal.Signals) -> int:
    """Send a signal to every process of a job; returns how many there were."""
    found = of_job(job_id)
    for process in found:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue
    return len(found)


def end_all(job_id: str, wait_s: float = 5.0) -> bool:
    """Kill what is left of a job, also what it started meanwhile; returns whether nothing is left."""
    deadline = time.monotonic() + wait_s
    while signal_all(job_id, signal.SIGKILL):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
