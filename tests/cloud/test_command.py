"""The command ``cloud`` as a person types it, with the local provider and a quick trainer."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from asr_lightning.__main__ import main
from asr_lightning.cloud import budget, follow, providers
from asr_lightning.cloud.ledger import Ledger
from asr_lightning.cloud.local import LocalProvider
from tests.cloud.renting import OF_ANY_MODEL, Shown, clear_leftovers, leftovers, quick
from tests.server.driver import wait


@pytest.fixture
def provider(home: Path, monkeypatch: pytest.MonkeyPatch) -> LocalProvider:
    provider = quick(home, trainer=(sys.executable, "-c", OF_ANY_MODEL))
    monkeypatch.setattr(providers, "open_provider", lambda name: provider)
    monkeypatch.setattr(budget, "STARTUP_HERE_S", 1.0)
    return provider


def run(clips: Path, *options: str) -> int:
    fixed = ["--provider", "local", "--gpu", "cpu", "--model", "toy", "--epochs", "1"]
    return main(["cloud", "run", str(clips), *fixed, *options])


def test_one_command_from_recordings_to_a_model(
    home: Path, clips: Path, provider: LocalProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    output = home.parent / "out"
    assert run(clips, "--yes", "-o", str(output)) == 0
    printed = capsys.readouterr()
    for part in ("WER      50.0% before, 25.0% after", "verdict  better", "about $0.00"):
        assert part in printed.out
    for part in (
        "estimate: ",
        "4 clips of 0.3 s, 1 epochs, 0.03 million weights",
        "packaging model",
        "what was sent is deleted",
        "a �[31mlog",
    ):
        assert part in printed.err
    assert sorted(path.name for path in output.iterdir()) == [
        "model.tar.gz", "report.html", "report.json", "trainer.log",
    ]  # fmt: skip
    assert leftovers(home, provider) == []
    assert run(clips, "--yes", "-o", str(output)) == 0  # beside the first
    assert (home.parent / "out-2" / "model.tar.gz").exists()


def test_a_detached_training_is_handled_from_new_shells(
    home: Path, clips: Path, provider: LocalProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(clips, "--yes", "--detach", "-o", str(home.parent / "out")) == 0
    (record,) = Ledger(home).records()
    assert f"cloud download {record.id}" in capsys.readouterr().out
    assert main(["cloud", "logs", record.id, "--follow"]) == 0
    assert "a �[31mlog" in capsys.readouterr().out
    wait(lambda: provider.poll(str(record.call)) == "done", "the end")
    assert main(["cloud", "gc"]) == 0
    assert "1 detached" in capsys.readouterr().out
    assert main(["cloud", "status"]) == 0
    assert f"{record.id}   finished" in capsys.readouterr().out
    assert main(["cloud", "download", record.id]) == 0
    assert main(["cloud", "status", record.id, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["state"] == "succeeded"
    assert main(["cloud", "status", record.id]) == 0
    assert main(["cloud", "logs", record.id]) == 0
    assert main(["cloud", "download", record.id]) == 2
    assert leftovers(home, provider) == []


def test_a_detached_training_is_cancelled(home: Path, clips: Path, provider: LocalProvider) -> None:
    assert run(clips, "--yes", "--detach") == 0
    (record,) = Ledger(home).records()
    assert clear_leftovers(home, provider) == 0 and provider.volumes() == [record.volume]
    assert main(["cloud", "cancel", record.id]) == 0
    assert leftovers(home, provider) == [] and Ledger(home).records()[0].outcome == "cancelled"


def test_an_unknown_volume_is_listed_and_deleted(provider: LocalProvider, capsys: pytest.CaptureFixture[str]) -> None:
    provider.create("asr-stray")
    assert main(["cloud", "gc", "--provider", "local"]) == 0
    assert "--volume asr-stray deletes it" in capsys.readouterr().out
    assert main(["cloud", "gc", "--provider", "local", "--volume", "asr-stray"]) == 0
    assert provider.volumes() == []


REFUSED = {
    "nobody to ask": ([], "give --yes"),
    "too dear": (["--max_cost", "0.01"], "more than --max_cost 0.01"),
    "too long": (["--max_time", "1s"], "give --max_time 1m or more"),
    "no time": (["--max_time", "soon"], "write 90s, 30m or 1.5h"),
    "no money": (["--max_cost", "0"], "must be above 0"),
    "no model": (["--model", "whisper-tin"], "did you mean whisper-tiny"),
    "no GPU": (["--gpu", "L4"], "the local provider has no L4"),
    "no epochs": (["--epochs", "0"], "epochs must be from 1 to 100"),
    "no recordings": ([], "no audio file in this folder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_before_anything_is_rented(
    name: str, home: Path, clips: Path, provider: LocalProvider, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    options, message = REFUSED[name]
    if name == "too dear":
        monkeypatch.setattr(provider, "price", lambda _: 1000.0)
    data = home.parent if name == "no recordings" else clips
    assert run(data, *options) == 2
    assert message in capsys.readouterr().err
    assert leftovers(home, provider) == []


def test_a_person_is_asked(
    clips: Path, provider: LocalProvider, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert run(clips) == 2
    assert "nothing was rented" in capsys.readouterr().err


def test_the_estimate_grows_with_what_it_counts() -> None:
    small = budget.estimate(280, 1400, 8, 38, "L4", 0.8)
    large = budget.estimate(280, 1400, 8, 242, "L4", 0.8)
    assert 100 < small.seconds < large.seconds < 1800
    assert large.cost == pytest.approx(0.8 * large.seconds / 3600)
    assert budget.estimate(280, 1400, 8, 242, "H100!", 0.8).seconds < large.seconds
    assert "taken for an L4" in budget.estimate(1, 1, 1, 1, "X9", 1.0).basis


def test_both_ceilings_count() -> None:
    assert budget.ceiling(2.0, 1.0, None) == 1800
    assert budget.ceiling(2.0, 1.0, 60.0) == 60
    assert budget.ceiling(0.0, 1.0, None) == budget.ceiling(2.0, None, None) == 3600
    assert [budget.parse_duration(text) for text in ("90", "90s", "1.5m", "2h")] == [90, 90, 90, 7200]


def test_a_machine_that_does_not_stop_is_cancelled(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own ceiling cancels it, and so does that for a machine that never starts."""
    ended = []

    class Endless(LocalProvider):
        has_started = True

        def poll(self, call: str):  # type: ignore[no-untyped-def]
            return "running"

        def read(self, volume: str, path: str, offset: int = 0) -> bytes | None:
            return json.dumps({"seconds": 10.0}).encode() if self.has_started and path == "remote.json" else None

        def cancel(self, call: str) -> None:
            ended.append(call)

    monkeypatch.setattr(follow, "PATIENCE_S", 0.1)
    monkeypatch.setattr(follow, "START_WITHIN_S", 0.1)
    fields = {"provider": "local", "gpu": "cpu", "price": 1.0, "spec": {}, "max_seconds": 10.1, "output": "out"}
    entry = Ledger(home).open(**fields, volume="asr-1", call="call")
    provider = Endless(home)
    for code in ("timeout", "no_machine"):
        error = follow.Watch(entry, provider, Shown(), poll_s=0.01).until_over()
        assert error is not None and error.code == code
        provider.has_started = False
    assert ended == ["call", "call"]
    entry.close()
