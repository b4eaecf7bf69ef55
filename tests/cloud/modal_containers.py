"""Modal's service with containers: a call is a process with the volume's committed files, which may be taken away."""

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
    """An account whose functions run below ``root``."""

    root: Path = Path()
    options: dict[str, Any] = field(default_factory=dict)
    """Of ``remote.train``."""
    containers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    starts: int = 0

    def start(self, call: str) -> None:
        """A container with the volume as it was committed last."""
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
        """Take over what the newest container of a volume has."""
        folder = self.root / volume / f"start{self.starts}" / "volume"
        self.volumes[volume] = {}
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                self.write(volume, path.relative_to(folder).as_posix(), path.read_bytes())

    def look(self, call: str) -> None:
        """See whether a container has ended."""
        if self.results[call] is None and self.containers[call].poll() is not None:
            status = api.GenericResult.GENERIC_STATUS_SUCCESS
            self.results[call] = api.GenericResult(status=status, data=pickle.dumps(""))

    def stop(self, call: str) -> None:
        """Kill a container with all that runs in it."""
        args, _ = pickle.loads(self.inputs[call].args)
        self.containers[call].kill()
        self.containers[call].wait()
        processes.end_all(args[0]["id"])

    def preempt(self, call: str) -> None:
        """Take the machine away, and call the function again on another."""
        self.stop(call)
        self.start(call)

    def close(self) -> None:
        """Nothing runs on."""
        for container in self.containers.values():
            container.kill()
            container.wait()
        shutil.rmtree(self.root, ignore_errors=True)


def main(folder: Path) -> None:
    """What the container does: the entry, with its mount here and quick workers."""
    call = json.loads((folder / "call.json").read_text())
    modal_entry.MOUNT = str(folder / "volume")
    remote.train = partial(remote.train, **call["options"])  # type: ignore[assignment]
    complaint = modal_entry.train(*call["args"])
    if complaint:
        print(complaint, file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
