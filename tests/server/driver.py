"""A real engine with quick workers, and helpers that use it."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine import states
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.engine.records import Event, Job
from asr_lightning.server.engine.settings import EngineSettings

HERE = Path(__file__).parent
VOICE = b"CANARY-5d41 the words that somebody said"
WAIT_S = 30.0
BEHAVIOURS: dict[str, dict[str, Any]] = {
    "quick": {},
    "brief": {"steps": 12},
    "slow": {"steps": 3000},
    "stubborn": {"steps": 3000, "ignore": True, "child": True},
    "parent": {"steps": 3000, "child": True},
    "leaver": {"child": True},
    "dies-once": {"steps": 8, "die": 5},
    "dies-always": {"steps": 8, "die": 5, "once": False},
    "dies-packaged": {"die": "packaged"},
    "bare": {"bare": True},
    "oom": {"error": {"code": "oom", "message": "out of memory: take a smaller model", "param": "base_model"}},
    "flood": {"flood": 20_000_000},
}
MODELS = {name: json.dumps(behaviour) for name, behaviour in BEHAVIOURS.items()}


def settings(home: Path, **changes: Any) -> EngineSettings:
    """The settings of an engine with fake workers."""
    defaults: dict[str, Any] = {
        "home": home,
        "models": MODELS,
        "grace_s": 0.3,
        "poll_s": 0.01,
        "min_free_bytes": 0,
        "reserve_bytes": 1 << 16,
        "trainer": (sys.executable, str(HERE / "fake_trainer.py")),
        "intake": (sys.executable, str(HERE / "fake_intake.py")),
    }
    return EngineSettings(**{**defaults, **changes})


@contextlib.contextmanager
def running(home: Path, **changes: Any) -> Iterator[Engine]:
    """A running engine. At the end, jobs that are still active are cancelled."""
    engine = Engine(settings(home, **changes))
    engine.start()
    try:
        yield engine
        for job in engine.store.jobs(states.ACTIVE):
            engine.cancel(job.id)
        wait(lambda: not engine.store.jobs(states.ACTIVE), "every job to end")
    finally:
        engine.stop()


def submit(engine: Engine, model: str = "quick", data: bytes = VOICE, key: str | None = None, **more: Any) -> Job:
    """A new job with ``data`` as its archive."""
    archive = engine.new_upload()
    archive.write_bytes(data)
    try:
        return engine.submit(JobSpec(model, epochs=1), archive, key=key, **more)[0]
    except BaseException:
        archive.unlink()  # a refusal leaves it
        raise


def wait(until: Callable[[], Any], what: str, seconds: float = WAIT_S) -> Any:
    """Call ``until`` until its answer is true; returns the answer."""
    deadline = time.monotonic() + seconds
    while not (answer := until()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.005)
    return answer


def reach(engine: Engine, job: Job, *wanted: str) -> Job:
    """The job, once it is in one of the states ``wanted``."""

    def arrived() -> Job | None:
        now = engine.job(job.id)
        assert now.state in wanted or now.state not in states.TERMINAL, now
        return now if now.state in wanted else None

    return wait(arrived, f"{wanted}")


def states_in_events(engine: Engine, job: Job) -> list[str]:
    """The states in the events of a job, in order."""
    return [event.data["state"] for event in engine.events(job.id) if event.kind in ("state", "purged")]


def assert_allowed(events: Sequence[Event]) -> None:
    """The states in the events follow one another as they may; a rebuilt store tells its state anew."""
    told = [event for event in events if event.kind in ("state", "purged")]
    for before, after in itertools.pairwise(told):
        follows = after.data["state"] in states.NEXT[str(before.data["state"])]
        assert follows or after.data.get("rebuilt"), [event.data for event in told]


def files_with(home: Path, needle: bytes) -> list[Path]:
    """Every file under ``home`` that holds ``needle``."""
    return [path for path in home.rglob("*") if path.is_file() and needle in path.read_bytes()]


def lives(engine: Engine, job_id: str) -> list[list[str]]:
    """The attempt, the process and the device of each trainer of a job."""
    return [line.split() for line in (engine.folder(job_id) / "run" / "lives.txt").read_text().splitlines()]
