"""Promise P16 of docs/cloud.md: a training whose machine is taken away continues, with the same result."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_lightning.cloud import local_volume, remote
from asr_lightning.cloud.ledger import Entry, Ledger
from asr_lightning.cloud.local import LocalProvider
from asr_lightning.cloud.provider import Request, RequestDocument
from asr_lightning.cloud.rental import Order
from asr_lightning.job_folder.spec import JobSpec
from tests.cloud.renting import INTAKE, TRAINER, leftovers, order, quick, rent, renter
from tests.server.driver import files_with, wait

EPOCHS = 2


def detach(home: Path, provider: LocalProvider, rental_order: Order, **changes: Any) -> Entry:
    record = renter(home, provider, **changes).rent(rental_order)
    assert record.detached and record.call is not None
    entry = Ledger(home).take(record.id)
    assert entry is not None
    return entry


def trained_steps(provider: LocalProvider, entry: Entry) -> int:
    """Steps of the committed checkpoint; 0 if there is none."""
    return int(json.loads(provider.read(str(entry.record.volume), "run/checkpoint.json") or b"{}").get("step", 0))


def test_taken_away_again_and_again_it_trains_nothing_twice(home: Path, clips: Path) -> None:
    """It is preempted before the data are read, and at three steps of the training."""
    provider = quick(home, commit_s=0.05)
    undisturbed = rent(home, provider, order(clips, home.parent / "one", {"steps": 60}))
    entry = detach(home, provider, order(clips, home.parent / "two", {"steps": 60}, detach=True))
    call, steps = str(entry.record.call), []
    provider.preempt(call)
    for step in (8, 20, 34):
        wait(lambda step=step: trained_steps(provider, entry) >= step, f"{step}")
        provider.preempt(call)
        steps.append(trained_steps(provider, entry))
    record = renter(home, provider).finish(entry)
    entry.close()
    assert record.outcome == "succeeded" and record.metrics == undisturbed.metrics
    assert steps == sorted(steps)
    assert (home.parent / "one/model.tar.gz").read_bytes() == (home.parent / "two/model.tar.gz").read_bytes()
    assert leftovers(home, provider) == []


@pytest.fixture(scope="module")
def undisturbed(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Mapping[str, object], bytes]:
    """Metrics and packed model of the real job without a preemption."""
    home = tmp_path_factory.mktemp("undisturbed")
    provider = LocalProvider(home / "local", {"commit_s": 0.5})
    record = rent(home, provider, _toy(tones_once, home / "out"), intake=remote.INTAKE)
    assert record.outcome == "succeeded", record.error
    return dict(record.metrics or {}), (home / "out" / "model.tar.gz").read_bytes()


def _toy(data: Path, output: Path, **changes: Any) -> Order:
    return Order(data, JobSpec("toy", epochs=EPOCHS), "toy", 0.03, "cpu", output, max_seconds=600.0, **changes)


def test_the_real_job_ends_with_the_same_weights(
    home: Path, tones_once: Path, undisturbed: tuple[Mapping[str, object], bytes]
) -> None:
    """It is preempted after its first checkpoint."""
    provider = LocalProvider(home / "local", {"commit_s": 0.3})
    entry = detach(home, provider, _toy(tones_once, home.parent / "out", detach=True), intake=remote.INTAKE)
    volume, call = str(entry.record.volume), str(entry.record.call)
    wait(lambda: provider.read(volume, "run/checkpoints/last.ckpt"), "a checkpoint")
    provider.preempt(call)
    record = renter(home, provider).finish(entry)
    entry.close()
    metrics, model = undisturbed
    assert record.outcome == "succeeded", record.error
    assert record.metrics == metrics
    weights = [weights_of(archive) for archive in (model, (home.parent / "out" / "model.tar.gz").read_bytes())]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert leftovers(home, provider) == []


def weights_of(archive: bytes) -> dict[str, torch.Tensor]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        (name,) = [name for name in tar.getnames() if name.endswith("toy.pt")]
        file = tar.extractfile(name)
        assert file is not None
        weights: dict[str, torch.Tensor] = torch.load(io.BytesIO(file.read()), weights_only=True)
        return weights


def volume(tmp_path: Path) -> tuple[Path, Path]:
    folder, work, archive = tmp_path / "asr-volume", tmp_path / "work", tmp_path / "archive"
    local_volume.create(folder)
    archive.write_bytes(b"CANARY the words that somebody said")
    local_volume.put(folder, archive, "input/archive.tar.gz")
    archive.unlink()
    local_volume.check_out(folder, work)
    return folder, work


def request(behaviour: Mapping[str, object] | None = None, max_seconds: float = 60.0) -> RequestDocument:
    spec = JobSpec("toy", epochs=1)
    return Request("jremote", spec, "cpu", max_seconds, json.dumps(behaviour or {}), "cpu").as_dict()


def test_what_is_done_is_not_done_again_and_no_recording_stays(tmp_path: Path) -> None:
    folder, work = volume(tmp_path)
    for _ in range(2):
        local_volume.check_out(folder, work)
        remote.train(work, request(), lambda: local_volume.commit(folder, work), trainer=TRAINER, intake=INTAKE)
    assert json.loads((work / "exit.json").read_text())["attempt"] == 1
    assert files_with(local_volume.committed(folder), b"CANARY") == []
    assert not (work / "dataset").exists() and not (work / "run").exists()


def test_the_time_of_all_lives_counts(tmp_path: Path) -> None:
    """The second call starts with the time that the first one used."""
    _, work = volume(tmp_path)
    (work / remote.STATE).write_text(json.dumps({"seconds": 59.5}))
    remote.train(work, request({"steps": 3000}), lambda: None, trainer=TRAINER, intake=INTAKE)
    assert json.loads((work / "exit.json").read_text())["error"]["code"] == "timeout"


def test_a_volume_that_is_gone_ends_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote.time, "sleep", lambda _: None)
    _, work = volume(tmp_path)

    def commit() -> None:
        raise RuntimeError("no such volume")

    with pytest.raises(RuntimeError, match="no such volume"):
        remote.train(work, request({"steps": 3000}), commit, trainer=TRAINER, intake=INTAKE, commit_s=0.01)


def test_what_is_not_committed_is_not_seen_and_a_commit_is_whole(tmp_path: Path) -> None:
    folder, work = volume(tmp_path)
    (work / "a").write_text("one")
    assert local_volume.read(folder, "a", 0) is None
    local_volume.commit(folder, work)
    (work / "a").write_text("two!")
    (work / "b").write_text("b")
    assert (local_volume.read(folder, "a", 1), local_volume.read(folder, "b", 0)) == (b"ne", None)
    local_volume.commit(folder, work)
    (work / "a").unlink()
    assert local_volume.read(folder, "a", 0) == b"two!"
    local_volume.commit(folder, work)
    assert (local_volume.read(folder, "a", 0), local_volume.read(folder, "b", 0)) == (None, b"b")
    assert len(list((folder / "versions").iterdir())) == 2
    local_volume.remove(folder)
    with pytest.raises(FileNotFoundError):
        local_volume.commit(folder, work)
