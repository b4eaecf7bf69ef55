"""A stand-in for SkyPilot's package, as far as the provider calls it: each cluster is a folder of this machine.

``test_skypilot.py`` compares its calls with the signatures of the real package, if that is installed.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any


class JobStatus(Enum):
    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3

    def is_terminal(self) -> bool:
        return self is not JobStatus.RUNNING


class ClusterStatus(Enum):
    INIT = 1
    UP = 2


class ClusterDoesNotExist(ValueError):  # noqa: N818
    pass


class NoCloudAccessError(Exception):
    pass


class ResourcesUnavailableError(Exception):
    pass


class Sky(ModuleType):
    """The module ``sky``: each call returns a request, which ``get`` carries out."""

    JobStatus, ClusterStatus = JobStatus, ClusterStatus

    def __init__(self, root: Path) -> None:
        super().__init__("sky")
        self.root = root
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.launched: dict[str, Any] = {}
        self.aborted: list[str] = []
        self.clouds = ["RunPod", "AWS"]
        self.fails: Exception | None = None
        self.deaf = False
        self.exceptions = SimpleNamespace(
            ClusterDoesNotExist=ClusterDoesNotExist,
            ClusterNotUpError=type("ClusterNotUpError", (Exception,), {}),
            NoCloudAccessError=NoCloudAccessError,
            ResourcesUnavailableError=ResourcesUnavailableError,
            ApiServerConnectionError=type("ApiServerConnectionError", (RuntimeError,), {}),
        )
        self.Task = SimpleNamespace(from_yaml_config=lambda config: config)
        self.sdk = SimpleNamespace(enabled_clouds=lambda: lambda: self.clouds, list_accelerators=self._accelerators)

    def get(self, request: Callable[[], Any]) -> Any:
        return request()

    stream_and_get = get

    def _accelerators(self, clouds: list[str]) -> Callable[[], Any]:
        offers = [("L4", "RunPod", 0.44, 1), ("L4", "RunPod", 0.88, 2), ("L4", "AWS", 0.80, 1), ("L4", "AWS", 1.2, 1)]
        offers += [("H100", "RunPod", 2.4, 8), ("T4", "GCP", 0.35, 1)]
        by_gpu: dict[str, list[Any]] = {}
        for gpu, cloud, price, count in offers:
            if cloud in clouds:
                by_gpu.setdefault(gpu, []).append(SimpleNamespace(cloud=cloud, price=price, accelerator_count=count))
        return lambda: by_gpu

    def launch(self, task: Any, cluster_name: str, **options: Any) -> Callable[[], Any]:
        """Copy the files as SkyPilot does, and start the task with the machine's folder as its home."""
        self.launched[cluster_name] = {**options, "task": task}

        def carry_out() -> tuple[int, None]:
            if self.fails is not None:
                raise self.fails
            home = self.root / cluster_name
            for there, here in task["file_mounts"].items():
                shutil.copytree(here, home / there.removeprefix("~/"), ignore=shutil.ignore_patterns("__pycache__"))
            python = home / "asr_env/bin/python"
            python.parent.mkdir(parents=True)
            executable(python, f'#!/bin/sh\nexec {sys.executable} "$@"\n')
            environment = {**os.environ, "HOME": str(home)}
            self.running[cluster_name] = subprocess.Popen(["bash", "-c", task["run"]], env=environment, cwd=home)
            return 1, None

        return carry_out

    def _cluster(self, name: str) -> subprocess.Popen[bytes]:
        if name not in self.running:
            raise ClusterDoesNotExist(f"Cluster {name!r} does not exist.")
        return self.running[name]

    def status(self) -> Callable[[], Any]:
        return lambda: [SimpleNamespace(name=name, status=ClusterStatus.UP) for name in self.running]

    def job_status(self, cluster_name: str, job_ids: list[int]) -> Callable[[], Any]:
        def carry_out() -> dict[int, JobStatus | None]:
            ended = self._cluster(cluster_name).poll()
            status = JobStatus.RUNNING if ended is None else JobStatus.FAILED if ended else JobStatus.SUCCEEDED
            return {number: status if number == 1 else None for number in job_ids}

        return carry_out

    def cancel(self, cluster_name: str, job_ids: list[int]) -> Callable[[], None]:
        def carry_out() -> None:
            process = self._cluster(cluster_name)
            if not self.deaf:
                process.kill()
                process.wait()

        return carry_out

    def down(self, cluster_name: str) -> Callable[[], None]:
        def carry_out() -> None:
            process = self._cluster(cluster_name)
            process.kill()
            process.wait()
            del self.running[cluster_name]
            shutil.rmtree(self.root / cluster_name)

        return carry_out

    def api_cancel(self, request_ids: str, silent: bool) -> Callable[[], None]:
        return lambda: self.aborted.append(request_ids)


def executable(path: Path, text: str) -> None:
    """Write an executable script to ``path``."""
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def tools(folder: Path, machines: Path) -> None:
    """Write ``ssh``, which runs a command in the machine's folder or cannot reach it, and ``sky``."""
    folder.mkdir()
    executable(
        folder / "ssh",
        f"""#!/bin/bash
while [ "$1" = -o ]; do shift 2; done
cd {machines}/"$1" 2>/dev/null || {{ echo "ssh: no route to $1" >&2; exit 255; }}
HOME=$PWD exec sh -c "$2"
""",
    )
    executable(folder / "sky", '#!/bin/sh\n[ "$1" = status ] && echo "$2" >> "$(dirname "$0")/configured"\n')
