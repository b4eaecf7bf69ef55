"""A stand-in for Modal's service that runs calls: each is a process with the committed files, and can be preempted."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from modal_proto import api_pb2 as api

from asr_lightning.cloud import modal_entry, remote
from asr_lightning.job_folder import processes
from tests.cloud.modal_service import Account

ROOT = Path(__file__).parents[2]


@dataclass
class Machines(Account):
    """An account whose containers are processes with folders below ``root``."""

    root: Path = Path()
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of ``remote.train``."""
    containers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    starts: int = 0

    def start(self, call: str) -> None:
        """Start a container with the volume as it was committed last."""
        args, _ = pickle.loads(self.inputs[call].args)
        self.starts += 1
        folder = self.root / args[1] / f"start{self.starts}"
        work = folder / "volume"
        work.mkdir(parents=True)
        for path in list(self.volumes[args[1]]):
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            (work / path).write_bytes(self.content(args[1], path))
        (folder / "call.json").write_text(json.dumps({"args": args, "options": self.options}))
        command = [sys.executable, "-m", "tests.cloud.modal_containers", str(folder)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MODAL_IS_REMOTE": "0"}
        self.containers[call] = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True)

    def commit(self, volume: str) -> None:
        """Commit the files of the newest container."""
        folder = self.root / volume / f"start{self.starts}" / "volume"
        self.volumes[volume] = {}
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                self.write(volume, path.relative_to(folder).as_posix(), path.read_bytes())

    def look(self, call: str) -> None:
        """Record the result of a call whose container has ended."""
        if self.results[call] is None and self.containers[call].poll() is not None:
            status = api.GenericResult.GENERIC_STATUS_SUCCESS
            self.results[call] = api.GenericResult(status=status, data=pickle.dumps(""))

    def stop(self, call: str) -> None:
        """Kill a container and everything that runs in it."""
        args, _ = pickle.loads(self.inputs[call].args)
        self.containers[call].kill()
        self.containers[call].wait()
        processes.end_all(args[0]["id"])

    def preempt(self, call: str) -> None:
        """Take the machine away, and repeat the call on another one."""
        self.stop(call)
        self.start(call)

    def close(self) -> None:
        """End all containers, and delete their folders."""
        for container in self.containers.values():
            container.kill()
            container.wait()
        shutil.rmtree(self.root, ignore_errors=True)


def main(folder: Path) -> None:
    """Run the function as in a container, with the volume in ``folder`` and quick workers."""
    call = json.loads((folder / "call.json").read_text())
    modal_entry.MOUNT = str(folder / "volume")
    remote.train = partial(remote.train, **call["options"])  # type: ignore[assignment]
    error = modal_entry.train(*call["args"])
    if error:
        print(error, file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
