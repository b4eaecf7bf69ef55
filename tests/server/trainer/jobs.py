"""Job folders, and trainers as processes, which are forked from a server that has imported torch once."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(
    [
        "asr_lightning.cli.lightning_cli",
        "asr_lightning.cli.run_job",
        "asr_lightning.callbacks.job_status",
        "asr_lightning.adapters.toy",
        "asr_lightning.adapters.whisper.adapter",
        "asr_lightning.job_folder.packaging",
        "tests.server.trainer.jobs",
    ]
)
EPOCHS = 3  # of three batches and two validations each


def make_job(folder: Path, tones: Path, **changes: Any) -> Path:
    """A job of the toy that is ready to be trained."""
    shutil.copytree(tones, folder / "dataset", ignore=shutil.ignore_patterns("*.csv"))
    assign(folder, **changes)
    return folder


def assign(
    folder: Path, attempt: int = 1, resume: bool = False, epochs: int = EPOCHS, source: str = "toy", **spec: Any
) -> None:
    assignment = {
        "job": folder.name,
        "attempt": attempt,
        "device": "cpu",
        "source": source,
        "spec": {"model": "toy", "language": None, "epochs": epochs, "seed": 0, **spec},
        "resume": resume,
    }
    (folder / "assignment.json").write_text(json.dumps(assignment))


def start(
    folder: Path, fault: str = "", limits: dict[str, int] | None = None, env: dict[str, str] | None = None
) -> BaseProcess:
    process = FORK.Process(target=_train, args=(str(folder), fault, limits or {}, env or {}))
    process.start()
    return process


def train(
    folder: Path, fault: str = "", limits: dict[str, int] | None = None, env: dict[str, str] | None = None
) -> int | None:
    """Exit status; below 0 the signal that ended it."""
    process = start(folder, fault, limits, env)
    process.join(60)
    return process.exitcode


def _train(folder: str, fault: str, limits: dict[str, int], env: dict[str, str]) -> None:
    import asr_lightning.callbacks.job_status  # noqa: F401 - torch, which a limit of memory would keep from loading
    from asr_lightning.__main__ import main

    os.environ["ASR_FAULT"] = fault
    os.environ.update(env)
    with (Path(folder) / "trainer.log").open("a", buffering=1) as log:
        sys.stdout = sys.stderr = log
        for name, value in limits.items():
            more = _address_space() if name == "RLIMIT_AS" else 0
            resource.setrlimit(getattr(resource, name), (value + more, value + more))
        sys.exit(main(["run-job", folder]))


def _address_space() -> int:
    """Bytes that this process has mapped; a limit is set on top of them."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def read(folder: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / name).read_text())
    return document


def log(folder: Path) -> str:
    return (folder / "trainer.log").read_text()


def wait_for_phase(folder: Path, phase: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (folder / "progress.json").exists() and read(folder, "progress.json")["phase"] == phase:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{folder} is not {phase}: {log(folder)}")
