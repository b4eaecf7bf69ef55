"""Promise P15 of docs/cloud.md: however a rental ends, nothing of it is left at the provider or on this machine."""

from __future__ import annotations

import errno
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from asr_lightning.cloud import ledger
from asr_lightning.cloud.endings import StoppedError
from asr_lightning.cloud.ledger import Ledger
from asr_lightning.cloud.local import LocalProvider
from tests.cloud.renting import (
    AFTER_SUCCESS,
    BEFORE_IT_IS_RENTED,
    INTAKE,
    REFUSES,
    STEPS,
    TRAINER,
    clear_leftovers,
    client_dies,
    leftovers,
    order,
    quick,
    rent,
)
from tests.server.driver import wait

STOPPED = [(step, number) for step in STEPS for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("step", STEPS)
def test_a_client_that_is_killed_leaves_what_the_next_one_deletes(step: str, home: Path, clips: Path) -> None:
    provider = quick(home)
    assert client_dies(home, clips, home.parent / "out", step, signal.SIGKILL) == -signal.SIGKILL
    assert clear_leftovers(home, provider) == 0
    assert leftovers(home, provider) == []
    expected = "succeeded" if step in AFTER_SUCCESS else "failed"
    assert outcome(home, step) in (expected, None)
    assert (home.parent / "out" / "model.tar.gz").exists() == (step in AFTER_SUCCESS)
    assert not list(home.parent.glob("out/.*"))


@pytest.mark.parametrize(("step", "number"), [*STOPPED, ("following", signal.SIGHUP)])
def test_a_client_that_is_stopped_deletes_everything_itself(step: str, number: int, home: Path, clips: Path) -> None:
    status = client_dies(home, clips, home.parent / "out", step, number)
    assert status == (0 if step in AFTER_SUCCESS else 128 + number)
    assert leftovers(home, quick(home)) == []
    expected = "succeeded" if step in AFTER_SUCCESS else "cancelled"
    assert outcome(home, step) in (expected, None)


def outcome(home: Path, step: str) -> str | None:
    """Outcome of the only rental, if there is one."""
    records = Ledger(home).records()
    assert len(records) == (step not in BEFORE_IT_IS_RENTED)
    return records[0].outcome or "none" if records else None


class Failing:
    """A provider whose method ``kind`` fails ``times`` times; if ``late``, only after it has done its work."""

    def __init__(self, provider: LocalProvider, kind: str, times: int, late: bool) -> None:
        self._provider, self._kind, self.times, self._late = provider, kind, times, late

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._provider, name)
        if name != self._kind:
            return method

        def failing(*args: Any, **kwargs: Any) -> Any:
            if self._late and self.times > 0:
                method(*args, **kwargs)
            self.times -= 1
            if self.times >= 0:
                raise RuntimeError(f"no {name} today")
            return method(*args, **kwargs)

        return failing


@pytest.mark.parametrize("kind", ["poll", "read", "download", "cancel", "delete", "volumes"])
def test_a_moment_without_the_provider_is_waited_for(kind: str, home: Path, clips: Path) -> None:
    provider: Any = Failing(quick(home), kind, 2, late=False)
    record = rent(home, provider, order(clips, home.parent / "out"))
    assert record.outcome == "succeeded" and leftovers(home, provider) == []
    assert provider.times < 0


@pytest.mark.parametrize("late", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("kind", ["create", "upload", "spawn"])
def test_a_provider_that_fails_leaves_nothing(kind: str, late: bool, home: Path, clips: Path) -> None:
    provider: Any = Failing(quick(home), kind, 1, late)
    with pytest.raises(OSError, match=f"local: RuntimeError: no {kind} today"):
        rent(home, provider, order(clips, home.parent / "out", {"steps": 3000}))
    assert leftovers(home, provider) == []
    assert Ledger(home).records()[0].outcome == "failed"


@pytest.mark.parametrize("kind", ["poll", "read", "download"])
def test_a_provider_that_stays_away_is_given_up(kind: str, home: Path, clips: Path) -> None:
    provider: Any = Failing(quick(home), kind, 1000, late=False)
    with pytest.raises(OSError, match=f"no {kind} today"):
        rent(home, provider, order(clips, home.parent / "out"))
    assert leftovers(home, quick(home)) == []


@pytest.mark.parametrize("kind", ["cancel", "delete", "volumes"])
def test_what_cannot_be_deleted_now_is_named_and_deleted_at_the_next_start(kind: str, home: Path, clips: Path) -> None:
    provider: Any = Failing(quick(home), kind, 1000, late=False)
    with pytest.raises(OSError, match="cloud gc tries again"):
        rent(home, provider, order(clips, home.parent / "out"))
    (record,) = Ledger(home).records()
    assert not record.is_over and record.outcome == "succeeded"
    assert clear_leftovers(home, provider) == 1
    assert clear_leftovers(home, quick(home)) == 0
    assert leftovers(home, quick(home)) == []


TRAININGS = {
    "an error of the trainer": (
        {"error": {"code": "oom", "message": "take a smaller model", "param": None}},
        {},
        "oom",
    ),
    "a trainer that always dies": ({"die": 1, "once": False}, {}, "interrupted_often"),
    "a trainer without a model": ({"bare": True}, {}, "interrupted_often"),
    "data that are refused": ({}, {"intake": ("python", "-c", REFUSES)}, "dataset_invalid"),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_that_fails_is_told_and_leaves_nothing(name: str, home: Path, clips: Path) -> None:
    behaviour, options, code = TRAININGS[name]
    provider = quick(home, **options)
    record = rent(home, provider, order(clips, home.parent / "out", behaviour))
    assert record.outcome == "failed" and record.error is not None and record.error.code == code
    assert leftovers(home, provider) == []


def test_the_time_is_a_ceiling_there_and_a_child_that_ignores_it_is_ended(
    home: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_lightning.cloud.budget.STARTUP_HERE_S", 0.0)
    provider = quick(home)
    record = rent(
        home,
        provider,
        order(clips, home.parent / "out", {"steps": 3000, "ignore": True, "child": True}, max_seconds=2.0),
    )
    assert record.error is not None and record.error.code == "timeout"
    assert record.seconds is not None and 2 <= record.seconds < 6
    assert leftovers(home, provider) == []


def test_the_clock_of_the_provider_kills(home: Path, clips: Path) -> None:
    """Here it comes before the function's own time limit, so that no ending is written."""
    provider = LocalProvider(home / "local", {"trainer": TRAINER, "intake": INTAKE}, patience_s=-599.0)
    record = rent(home, provider, order(clips, home.parent / "out", {"steps": 3000, "child": True}))
    assert record.error is not None and record.error.code == "interrupted"
    assert leftovers(home, provider) == []


def test_a_trainer_that_dies_once_goes_on(home: Path, clips: Path) -> None:
    record = rent(home, quick(home), order(clips, home.parent / "out", {"steps": 8, "die": 5}))
    assert record.outcome == "succeeded" and record.metrics == {"before": 0.5, "after": 0.25, "verdict": "better"}


def test_a_training_cancelled_from_another_shell_is_cleared_by_its_client(home: Path, clips: Path) -> None:
    provider, rentals = quick(home), Ledger(home)

    def cancel() -> None:
        (record,) = wait(lambda: [each for each in rentals.records() if each.call], "the call")
        provider.cancel(str(record.call))

    thread = threading.Thread(target=cancel)
    thread.start()
    record = rent(home, provider, order(clips, home.parent / "out", {"steps": 3000}))
    thread.join()
    assert record.outcome == "failed" and leftovers(home, provider) == []


def test_a_full_disk_here_keeps_nothing_there(home: Path, clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger cannot be written from the upload on; the next start reads the old record, and finds no volume."""
    provider, write = quick(home), ledger.write_json

    def full(path: Path, data: Any) -> None:
        if data["step"] not in ("preparing", "creating"):
            raise OSError(errno.ENOSPC, "no space left on device")
        write(path, data)

    monkeypatch.setattr(ledger, "write_json", full)
    with pytest.raises(OSError, match="no space left"):
        rent(home, provider, order(clips, home.parent / "out"))
    assert provider.volumes() == []
    monkeypatch.undo()
    assert clear_leftovers(home, provider) == 0
    assert leftovers(home, provider) == []


def test_a_second_signal_does_not_stop_the_clearing(home: Path, clips: Path) -> None:
    class Impatient(LocalProvider):
        def delete(self, volume: str) -> None:
            signal.raise_signal(signal.SIGINT)
            super().delete(volume)

        def spawn(self, volume: str, request: Any) -> str:
            super().spawn(volume, request)
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the signal raises")

    provider = Impatient(home / "local")
    with pytest.raises(StoppedError, match="SIGTERM"):
        rent(home, provider, order(clips, home.parent / "out"))
    assert leftovers(home, provider) == []
