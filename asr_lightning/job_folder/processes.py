"""Start worker processes that outlive the server, find what is left of them, and end them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from asr_lightning.durable import faults
from asr_lightning.durable.locks import is_held, take_lock
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.worker import JOB, LOCKS

PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PYTHONPATH", "TZ", "SYSTEMROOT", faults.VARIABLE)
PASSED_ON_PREFIXES = ("CUDA_", "HF_", "OMP_", "MKL_", "NVIDIA_", "PYTORCH_", "TORCH_", "XDG_")
"""Environment variables, and prefixes of their names, that a worker gets from the server."""
HUB_SECRETS = frozenset({"HF_TOKEN", "HF_TOKEN_PATH"})
_CHILDREN: list[subprocess.Popen[bytes]] = []


def environment(job_id: str, folder: Path, secrets: bool) -> dict[str, str]:
    """The environment variables of a worker.

    The server's own token is never among them.

    Args:
        job_id: Id of the job.
        folder: Folder of the job.
        secrets: Whether the worker may read the token of the model hub, and the user's home folder.
    """
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if (name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES)) and (secrets or name not in HUB_SECRETS)
    }
    home = os.environ.get("HOME", str(folder)) if secrets else str(folder)
    return {**passed_on, "HOME": home, JOB: job_id, "TMPDIR": str(folder / "tmp"), "PYTHONUNBUFFERED": "1"}


def start(
    command: Sequence[str], folder: Path, worker: str, env: dict[str, str], locks: Sequence[int]
) -> subprocess.Popen[bytes]:
    """Start a worker in a session of its own.

    Its output goes to a file. A pipe to the server would end the worker when the server dies.

    Args:
        command: Command line, to which the folder is added.
        folder: Folder of the job.
        worker: Name of the worker, for its log.
        env: Its environment variables.
        locks: Descriptors of the locks that it is to hold.
    """
    log = layout.log_of(folder, worker)
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


def launch(job_id: str, folder: Path, command: Sequence[str], worker: str, device_locks: Sequence[int]) -> None:
    """Start a worker of a job, which holds the job's worker lock and the locks of its device for its whole life.

    Raises:
        OSError: The worker could not be started.
        RuntimeError: A worker of this job is running already.
    """
    lock = take_lock(folder / layout.WORKER_LOCK)
    if lock is None:
        raise RuntimeError(f"a worker of {job_id} is running already")
    try:
        env = environment(job_id, folder, secrets=worker == "trainer")
        _CHILDREN.append(start(command, folder, worker, env, [lock, *device_locks]))
    finally:
        os.close(lock)


def is_alive(job_id: str, folder: Path) -> bool:
    """Whether the worker of a job is running: by its lock, or by its processes where the lock cannot be used."""
    reap()
    try:
        return is_held(folder / layout.WORKER_LOCK)
    except OSError:
        return bool(of_job(job_id))


def cap_log(folder: Path, worker: str, max_bytes: int) -> None:
    """Move the end of a worker's log that has grown over ``max_bytes`` to ``<worker>.log.1``, and begin a new log.

    The worker appends to the open file, so it cannot be renamed; what it writes meanwhile may be lost.
    """
    log = layout.log_of(folder, worker)
    if not log.exists() or log.stat().st_size <= max_bytes:
        return
    with log.open("rb") as file:
        file.seek(-max_bytes // 2, os.SEEK_END)
        log.with_name(f"{log.name}.1").write_bytes(file.read(max_bytes // 2))
    os.truncate(log, 0)


def reap() -> None:
    """Collect the exit statuses of workers that ended, so that no zombies are left."""
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]


def jobs_at_work() -> set[str]:
    """The ids of all jobs that a live process of this user works for."""
    ids = set()
    for process in psutil.process_iter():
        try:
            ids.add(process.environ().get(JOB, ""))
        except (psutil.Error, OSError):
            continue  # it ended, or is another user's
    return ids - {""}


def of_job(job_id: str) -> list[psutil.Process]:
    """The live processes of this user that work for a job, children of children too, by their environment."""
    processes = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(JOB) == job_id:
                processes.append(process)
        except (psutil.Error, OSError):
            continue  # it ended, or is another user's
    return [process for process in processes if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]


def signal_all(job_id: str, number: signal.Signals) -> int:
    """Send a signal to every process of a job; returns their number."""
    processes = of_job(job_id)
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.Error:
            continue
    return len(processes)


def end_all(job_id: str, wait_s: float = 5.0) -> bool:
    """Kill every process of a job, those that start meanwhile too; returns whether none is left."""
    deadline = time.monotonic() + wait_s
    while signal_all(job_id, signal.SIGKILL):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
