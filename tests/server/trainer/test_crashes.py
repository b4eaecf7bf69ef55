"""A trainer that is killed anywhere and resumed ends with the weights of an undisturbed one (P6, P7, P9)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from tests.server.trainer.jobs import assign, log, read, train

KILLS = {
    "before the first checkpoint": ("training.batch:kill:3", None),
    "in the middle of epoch 2": ("training.batch:kill:5", "last.ckpt"),
    "weights kept, no checkpoint yet": ("training.best.kept:kill:4", "last.ckpt"),
    "hash written, checkpoint not": ("training.checkpoint.recorded:kill:2", "last.ckpt"),
    "old checkpoint moved, new one not": ("training.checkpoint.rotated:kill:2", "previous.ckpt"),
    "while weights are chosen": ("training.evaluating:kill", "last.ckpt"),
    "archive written, not checked": ("training.packed:kill", "last.ckpt"),
    "all done but exit.json": ("training.ending:kill", "last.ckpt"),
}


def same_model(job: Path, other: Path) -> bool:
    """Bit for bit: what is handed out, what was trained to the end, and the names, which are hashes, of the best."""
    models = [torch.load(folder / "run" / "model" / "toy.pt", weights_only=True) for folder in (job, other)]
    ends = [
        torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (job, other)
    ]
    best = [{path.name for path in best_of(folder)} for folder in (job, other)]
    same = all(torch.equal(one[name], two[name]) for one, two in (models, ends) for name in one)
    return same and best[1] <= best[0]


def best_of(folder: Path) -> list[Path]:
    names = torch.load(folder / "run" / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["KeepBest"][
        "names"
    ]
    return [folder / "run" / "checkpoints" / "best" / name for name in names.values()]


@pytest.mark.parametrize("place", KILLS)
def test_killed_and_started_again_gives_the_same_weights(place: str, job: Path, undisturbed: Path) -> None:
    fault, resumed_from = KILLS[place]
    assert train(job, fault) == -9, log(job)
    assert not (job / "exit.json").exists()
    assign(job, attempt=2, resume=True)
    assert train(job) == 0, log(job)
    ending = read(job, "exit.json")
    assert (ending["attempt"], ending["code"]) == (2, 0)
    assert read(job, "progress.json")["resumed_from"] == resumed_from
    assert same_model(job, undisturbed)
    metrics = read(undisturbed, "exit.json")["metrics"]
    assert ending["metrics"] == metrics
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (job / "artifacts").iterdir()}
    assert digests == ending["artifacts"]
    assert not list(job.glob("artifacts.*")) and not list(job.glob("run/tmp*"))


@pytest.mark.once
def test_killed_again_and_again_it_still_gets_there(job: Path, undisturbed: Path) -> None:
    """Each life gets a little farther; two of them end between the moves of a checkpoint."""
    faults = ("batch:kill:5", "checkpoint.rotated:kill", "checkpoint.recorded:kill", "best.kept:kill", "packed:kill")
    for number, fault in enumerate(faults, start=1):
        assign(job, attempt=number, resume=number > 1)
        assert train(job, f"training.{fault}") == -9, log(job)
    assign(job, attempt=9, resume=True)
    assert train(job) == 0, log(job)
    assert same_model(job, undisturbed)


@pytest.mark.parametrize("damage", ["cut off", "one bit", "gone"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(damage: str, job: Path, undisturbed: Path) -> None:
    """It is never read, and never takes the place of the good one."""
    assert train(job, "training.batch:kill:8") == -9
    last = job / "run" / "checkpoints" / "last.ckpt"
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes(content if damage == "one bit" else content[:1000])
    assign(job, attempt=2, resume=True)
    assert train(job) == 0, log(job)
    assert read(job, "progress.json")["resumed_from"] == "previous.ckpt"
    assert "resuming from the checkpoint before the last" in log(job)
    assert same_model(job, undisturbed)


def test_lost_weights_are_named_and_left_out(job: Path) -> None:
    assert train(job, "training.batch:kill:8") == -9
    damaged = best_of(job)[0]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    assign(job, attempt=2, resume=True)
    assert train(job) == 0, log(job)
    assert f"{damaged.name} is missing or damaged" in log(job)


def test_half_a_split_is_made_anew_and_a_given_one_is_kept(job: Path, undisturbed: Path) -> None:
    """A kill between our three CSVs; the client's own is never touched."""
    made = undisturbed / "dataset"
    from_client = (made / "test_files.csv").read_text()
    (job / "dataset" / "test_files.csv").write_text(from_client)
    assert train(job, "training.batch:kill") == -9
    (job / "dataset" / "dev_files.csv").unlink()
    train_rows = (job / "dataset" / "train_files.csv").read_text().splitlines(keepends=True)
    (job / "dataset" / "train_files.csv").write_text("".join(train_rows[:3]))
    assign(job, attempt=2, resume=True)
    assert train(job) == 0, log(job)
    for name in ("train_files.csv", "dev_files.csv", "test_files.csv"):
        assert (job / "dataset" / name).read_text() == (made / name).read_text()
    assert same_model(job, undisturbed)
