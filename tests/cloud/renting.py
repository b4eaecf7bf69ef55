"""Helpers that rent with quick workers, in this process or in one that is killed at a chosen step."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from asr_lightning.cloud import endings
from asr_lightning.cloud.ledger import Ledger, Record
from asr_lightning.cloud.local import LocalProvider
from asr_lightning.cloud.provider import Provider
from asr_lightning.cloud.remote import Options
from asr_lightning.cloud.rental import Order, Renter
from asr_lightning.durable import faults
from asr_lightning.job_folder import processes
from asr_lightning.job_folder.progress import Progress
from asr_lightning.job_folder.spec import JobSpec

FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tests.cloud.renting", "asr_lightning.data.audio", "soundfile", "soxr"])
WORKERS = Path(__file__).parents[1] / "server"
INTAKE = (sys.executable, str(WORKERS / "fake_intake.py"))
TRAINER = (sys.executable, str(WORKERS / "fake_trainer.py"))
REFUSES = (
    "import json, sys, pathlib; pathlib.Path(sys.argv[1], 'intake.json').write_text("
    "json.dumps({'ok': False, 'error': {'code': 'dataset_invalid', 'message': 'no clips', 'param': 'data'}}))"
)
OF_ANY_MODEL = (
    "import json, pathlib, runpy, sys; path = pathlib.Path(sys.argv[1], 'assignment.json'); "
    "path.write_text(json.dumps({**json.loads(path.read_text()), 'source': '{}'})); print('a \\x1b[31mlog'); "
    f"sys.exit(runpy.run_path({TRAINER[1]!r})['main'](path.parent))"
)
STEPS = (
    "packing", "packed", "prepared", "creating", "created", "uploaded", "spawning", "spawned", "following",
    "downloading", "downloaded", "deleting", "deleted",
)  # fmt: skip
WHILE_IT_TRAINS = ("spawned", "following")
BEFORE_IT_IS_RENTED = ("packing", "packed", "prepared")
AFTER_SUCCESS = ("deleting", "deleted")


class Shown:
    """A ``Show`` that keeps what a person would see."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.progressed: list[Progress] = []
        self.logged = b""
        self.moves: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def log(self, data: bytes) -> None:
        self.logged += data

    def progress(self, progress: Progress, cost: float) -> None:
        self.progressed.append(progress)

    def moved(self, what: str) -> Callable[[int, int], None]:
        self.moves.append(what)
        return lambda done, total: None


def quick(home: Path, **options: Any) -> LocalProvider:
    """The local provider, with fake workers that take a fraction of a second."""
    remote_options: Options = {"trainer": TRAINER, "intake": INTAKE, "commit_s": 0.1, **options}
    return LocalProvider(home / "local", remote_options)


def order(data: Path, output: Path, behaviour: Mapping[str, object] | None = None, **changes: Any) -> Order:
    """The order of a training by the fake trainer, which does what ``behaviour`` says."""
    fields: dict[str, Any] = {"max_seconds": 600.0, "gpu": "cpu", "parameters_m": 0.03, **changes}
    return Order(data, JobSpec("toy", epochs=1), json.dumps(behaviour or {}), output=output, **fields)


def renter(home: Path, provider: Provider, shown: Shown | None = None, **changes: Any) -> Renter:
    arguments = {"intake": INTAKE, "poll_s": 0.02, "pause_s": 0.01, **changes}
    return Renter(Ledger(home), provider, shown or Shown(), lambda _: True, **arguments)


def rent(home: Path, provider: Provider, rental_order: Order, **changes: Any) -> Record:
    return renter(home, provider, **changes).rent(rental_order)


def clear_leftovers(home: Path, provider: Provider) -> int:
    """Clear what killed clients left, as each start of a client does."""
    return endings.clear_leftovers(Ledger(home), lambda _: provider, lambda _: None, pause_s=0.01)


def leftovers(home: Path, provider: Provider) -> list[str]:
    """The files, volumes and processes that rentals left; records of ended rentals and locks do not count."""
    files = [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]
    records = Ledger(home).records()
    remains = [name for name in files if not name.startswith(("rentals/", "local/proof-"))]
    remains += [f"volume {name}" for name in provider.volumes()]
    remains += [f"record {record.id} says {record.step}" for record in records if not record.is_over]
    return remains + [f"process {child.pid}" for record in records for child in processes.of_job(record.id)]


def client_dies(home: Path, data: Path, output: Path, step: str, number: int) -> int | None:
    """Rent in a process that sends itself the signal ``number`` at ``step``; returns its exit status."""
    process = FORK.Process(target=_client, args=(home, data, output, step, number))
    process.start()
    process.join(60)
    return process.exitcode


def _client(home: Path, data: Path, output: Path, step: str, number: int) -> None:
    def point(name: str) -> None:
        if name == f"cloud.{step}":
            os.kill(os.getpid(), number)

    faults.point = point  # in this process only
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup starts the tests with it ignored, and the client would too
    try:
        rent(home, quick(home), order(data, output, {"steps": 3000 if step in WHILE_IT_TRAINS else 4}))
    except endings.StoppedError as stopped:
        sys.exit(128 + stopped.number)
