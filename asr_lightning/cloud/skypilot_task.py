"""The task that SkyPilot runs, in the form of its task files; also the shell commands that read files of the volume."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from asr_lightning.cloud import rented
from asr_lightning.cloud.provider import Request

VOLUME = "~/asr_volume"
"""Folder on the machine's own disk, because RunPod mounts no buckets."""
REQUEST = "request.json"
"""File of the volume with the request that ``skypilot_main`` reads."""
IDLE_MINUTES = 30
"""Minutes after the training until the machine ends itself, even if the result was not downloaded."""
DISK_GB = 64
MISSING = 44
"""Exit status of the commands below if the file does not exist; one that neither shells nor ssh use."""

_PACKAGE = "~/asr_package"
_PYTHON = "~/asr_env/bin/python"
_SETUP = f"""\
set -e
export PATH="$HOME/.local/bin:$PATH"
command -v uv || curl -LsSf https://astral.sh/uv/{rented.UV}/install.sh | sh
uv venv --quiet --allow-existing --python {rented.PYTHON} ~/asr_env
uv pip install --quiet --python {_PYTHON} --require-hashes --requirements """
_RUN = f"""\
PYTHONPATH="$HOME/asr_package" exec {_PYTHON} -m asr_lightning.cloud.skypilot_main {VOLUME}
"""


def task_config(volume: str, request: Request, staging: Path, max_hourly_cost: float) -> dict[str, Any]:
    """The task of one rental, as ``sky.Task.from_yaml_config`` takes it.

    It asks for no spot machine: if one is taken back, the checkpoints on its disk are lost.

    Args:
        volume: Name of the volume, and thus of the task.
        request: What to train.
        staging: The folder that becomes the volume, with the archive and the request.
        max_hourly_cost: USD an hour; SkyPilot must not take a more expensive machine.

    Raises:
        ValueError: The model needs an extra that rented machines do not have.
    """
    lock = rented.lock_of(request.spec.model).relative_to(rented.PACKAGE.parent)
    return {
        "name": volume,
        "num_nodes": 1,
        "resources": {
            "accelerators": f"{request.gpu}:1",
            "use_spot": False,
            "disk_size": DISK_GB,
            "max_hourly_cost": max_hourly_cost,
            "autostop": {"idle_minutes": IDLE_MINUTES, "down": True, "wait_for": "jobs"},
        },
        "file_mounts": {VOLUME: str(staging), f"{_PACKAGE}/asr_lightning": str(rented.PACKAGE)},
        "setup": _SETUP + f"{_PACKAGE}/{lock.as_posix()}\n",
        "run": _RUN,
    }


def read_command(path: str, offset: int) -> str:
    """Shell command that prints a file of the volume from ``offset`` on, or exits with ``MISSING``."""
    file = _file(path)
    return f"test -f {file} || exit {MISSING}; exec tail -c +{offset + 1} {file}"


def size_command(path: str) -> str:
    """Shell command that prints the size of a file of the volume in bytes, or exits with ``MISSING``."""
    file = _file(path)
    return f"test -f {file} || exit {MISSING}; exec wc -c < {file}"


def _file(path: str) -> str:
    return f"{VOLUME}/{shlex.quote(path)}"
