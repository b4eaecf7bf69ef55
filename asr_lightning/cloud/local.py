"""This machine as a provider: runs the same function in a process of its own, on a folder that behaves like a volume.

What the function writes can be read only after a commit, and each commit is a whole version of the volume. Its process
may be killed and restarted on the latest version, as rented machines may. The tests use this provider, and it suits a
long training that must survive a closed terminal.
"""

from __future__ import annotations

import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path

from asr_lightning.cloud import ledger, local_volume
from asr_lightning.cloud.provider import LOCAL_DEVICES, PREFIX, Moved, Request, State, save_blocks
from asr_lightning.cloud.remote import Options
from asr_lightning.durable.files import read_json, write_json
from asr_lightning.durable.locks import is_held, take_lock
from asr_lightning.errors import require_training
from asr_lightning.job_folder import processes

PATIENCE_S = 60.0
ENDS_WITHIN_S = 20.0
BLOCK_BYTES = 1 << 20
_CHILDREN: list[subprocess.Popen[bytes]] = []


class LocalProvider:
    """Trains on this machine.

    Args:
        home: Folder of the volumes; by default the folder ``local`` in ``ledger.home()``.
        options: Further arguments of ``remote.train``, for tests.
        patience_s: Seconds after its time limit at which a function that did not stop by itself is killed.
    """

    name = "local"

    def __init__(
        self, home: Path | None = None, options: Options | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self.home = home or ledger.home() / "local"
        self._options: Options = options or {}
        self._patience_s = patience_s

    @property
    def default_gpu(self) -> str:
        """The best device of this machine."""
        if sys.platform == "darwin" and platform.machine() == "arm64":
            return "mps"
        return "cuda" if shutil.which("nvidia-smi") else "cpu"

    def price(self, gpu: str) -> float:
        """0 USD an hour.

        Raises:
            ValueError: There is no such device.
            MissingExtraError: What trains is not installed on this machine.
        """
        require_training("the provider local")
        if gpu not in LOCAL_DEVICES:
            raise ValueError(f"the local provider has no {gpu}: give --gpu {', '.join(LOCAL_DEVICES)}")
        return 0.0

    def create(self, volume: str) -> None:
        """Create an empty volume."""
        if self._folder(volume).exists():
            raise ValueError(f"there is a volume {volume} already: python -m asr_lightning cloud gc deletes old ones")
        local_volume.create(self._folder(volume))

    def upload(self, volume: str, source: Path, target: str) -> None:
        """Copy a file into the latest version of a volume."""
        local_volume.put(self._folder(volume), source, target)

    def spawn(self, volume: str, request: Request) -> str:
        """Start the process that calls ``remote.train``, and return the id of the call."""
        folder = self._folder(volume)
        if not folder.is_dir():
            raise ValueError(f"there is no volume {volume}: create it first")
        call = f"{volume}.{secrets.token_hex(4)}"
        seconds = request.max_seconds + self._patience_s
        document = {"call": call, "request": request.as_dict(), "options": self._options, "seconds": seconds}
        write_json(folder / "call.json", document)
        self._start(folder, request.id)
        return call

    def poll(self, call: str) -> State:
        """State of a call: its process holds a lock for as long as it lives."""
        _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
        folder = self._folder_of(call)
        if (read_json(folder / "call.json") or {}).get("call") != call:
            return "gone"
        return "running" if is_held(folder / "call.lock") or (folder / "restarting").exists() else "done"

    def read(self, volume: str, path: str, offset: int = 0) -> bytes | None:
        """Bytes of a file of the latest version from ``offset`` on."""
        return local_volume.read(self._folder(volume), path, offset)

    def download(self, volume: str, path: str, target: Path, progress: Moved | None = None) -> None:
        """Copy a file of the latest version to ``target``."""
        source = local_volume.committed(self._folder(volume)) / path
        with closing(_blocks(source)) as blocks:
            save_blocks(blocks, target, source.stat().st_size, progress, f"{path} on {volume}")

    def cancel(self, call: str) -> None:
        """Kill the process of a call and everything that it started."""
        self._end(self._folder_of(call))

    def delete(self, volume: str) -> None:
        """End what runs on a volume, and delete it."""
        folder = self._folder(volume)
        if folder.is_dir():
            self._end(folder)
        local_volume.remove(folder)

    def volumes(self) -> list[str]:
        """Names of the volumes that exist."""
        if not self.home.is_dir():
            return []
        return sorted(path.name for path in self.home.iterdir() if path.name.startswith(PREFIX))

    def preempt(self, call: str) -> None:
        """Kill the process of a call and restart it on its last commit, as happens to rented machines."""
        folder = self._folder_of(call)
        (folder / "restarting").touch()
        self._end(folder)
        self._start(folder, _request_id(folder))
        (folder / "restarting").unlink()

    def _folder(self, volume: str) -> Path:
        if not volume.startswith(PREFIX) or "/" in volume or "\\" in volume or ".." in volume:
            raise ValueError(f"{volume!r} is no volume of ours")
        return self.home / volume

    def _folder_of(self, call: str) -> Path:
        return self._folder(call.partition(".")[0])

    def _start(self, folder: Path, request_id: str) -> None:
        lock = take_lock(folder / "call.lock")
        if lock is None:
            raise OSError(f"a training runs on {folder.name} already")
        command: Sequence[str] = (sys.executable, "-m", "asr_lightning.cloud.local_worker", str(folder))
        try:
            with (folder / "worker.log").open("ab") as log:
                child = subprocess.Popen(
                    command,
                    env={**os.environ, processes.JOB: request_id, processes.LOCKS: str(lock)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    pass_fds=(lock,),
                )
                _CHILDREN.append(child)
        finally:
            os.close(lock)

    def _end(self, folder: Path) -> None:
        """Kill until nothing is left; the lock shows a process that has only just started."""
        deadline = time.monotonic() + ENDS_WITHIN_S
        request_id = _request_id(folder)
        while request_id and (not processes.end_all(request_id) or is_held(folder / "call.lock")):
            if time.monotonic() > deadline:
                raise OSError(f"the training on {folder.name} does not end: end its processes, then run cloud gc")
            time.sleep(0.02)


def _blocks(path: Path) -> Generator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block


def _request_id(folder: Path) -> str:
    return str(((read_json(folder / "call.json") or {}).get("request") or {}).get("id") or "")
