"""What SkyPilot is asked to run, as the plain form of its task files. Needs no package: text and paths."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from asr_lightning.cloud import rented
from asr_lightning.cloud.provider import Request

VOLUME = "~/asr_volume"
"""On the machine: its own disk, because RunPod mounts no buckets."""
REQUEST = "request.json"
"""In the volume; of ``skypilot_main``."""
IDLE_MINUTES = 30
"""The machine ends itself so long after the training, whether or not somebody fetched the result."""
DISK_GB = 64
UV = "0.13.9"

_PACKAGE = "~/asr_package"
_PYTHON = "~/asr_env/bin/python"
_SETUP = f"""\
set -e
export PATH="$HOME/.local/bin:$PATH"
command -v uv || curl -LsSf https://astral.sh/uv/{UV}/install.sh | sh
uv venv --quiet --allow-existing --python {rented.PYTHON} ~/asr_env
uv pip install --quiet --python {_PYTHON} --require-hashes --requirements """
_RUN = f"""\
PYTHONPATH="$HOME/asr_package" exec {_PYTHON} -m asr_lightning.cloud.skypilot_main {VOLUME}
"""


def task_config(volume: str, request: Request, staging: Path, max_hourly_cost: float) -> dict[str, Any]:
    """The task of one rental, for ``sky.Task.from_yaml_config``.

    No spot machine: one that is taken back takes the checkpoints on its disk with it.

    Args:
        volume: Names the task.
        request: What to train.
        staging: The folder that becomes the volume, with the archive and the request.
        max_hourly_cost: USD an hour; SkyPilot takes no dearer machine.

    Raises:
        ValueError: The model needs what rented machines do not have.
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
    """Prints a file of the volume from ``offset`` on; exit status ``MISSING`` where it is not."""
    file = _file(path)
    return f"test -f {file} || exit {MISSING}; exec tail -c +{offset + 1} {file}"


def size_command(path: str) -> str:
    """Prints the bytes of a file of the volume."""
    file = _file(path)
    return f"test -f {file} || exit {MISSING}; exec wc -c < {file}"


MISSING = 44


def _file(path: str) -> str:
    return f"{VOLUME}/{shlex.quote(path)}"
