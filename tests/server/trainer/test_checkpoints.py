"""Only files that the same run wrote are unpickled, and even these as weights only."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from asr_lightning.cli import lightning_cli
from asr_lightning.training import checkpoints
from asr_lightning.training.checkpoints import HashMismatchError, VerifiedCheckpoints

PACKAGE = Path(checkpoints.__file__).parent


class Poison:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def written(folder: Path, *numbers: int) -> Path:
    for number in numbers:
        VerifiedCheckpoints().save_checkpoint({"number": number}, folder / checkpoints.FRESH)
        checkpoints.rotate(folder)
    return folder


def number(path: Path | None) -> int:
    assert path is not None
    stored: int = VerifiedCheckpoints().load_checkpoint(path)["number"]
    return stored


def test_two_are_kept(tmp_path: Path) -> None:
    folder = written(tmp_path, 1, 2, 3)
    assert sorted(path.name for path in folder.iterdir()) == ["hashes.json", "last.ckpt", "previous.ckpt"]
    assert (number(folder / "last.ckpt"), number(folder / "previous.ckpt")) == (3, 2)
    assert checkpoints.newest(folder) == folder / "last.ckpt"


def test_a_damaged_one_is_put_aside_and_displaces_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = written(tmp_path, 1, 2)
    (folder / "last.ckpt").write_bytes(b"damaged")
    assert number(checkpoints.newest(folder)) == 1
    assert "last.ckpt is damaged" in caplog.text
    written(folder, 3)
    assert (number(folder / "last.ckpt"), number(folder / "previous.ckpt")) == (3, 1)
    assert (folder / "last.ckpt.broken").read_bytes() == b"damaged"


@pytest.mark.parametrize("lost", ["hashes.json", "last.ckpt", "previous.ckpt"])
def test_without_a_match_there_is_nothing_to_resume(lost: str, tmp_path: Path) -> None:
    folder = written(tmp_path, 1, 2)
    for name in {"last.ckpt", "previous.ckpt"} - {lost} if lost != "hashes.json" else ():
        (folder / name).write_bytes(b"damaged")
    (folder / lost).unlink()
    assert checkpoints.newest(folder) is None


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("recorded", [True, False])
def test_a_poisoned_checkpoint_is_refused(zipped: bool, recorded: bool, tmp_path: Path) -> None:
    """Also where its maker could write the hash as well."""
    folder, mark = written(tmp_path / "run", 1), tmp_path / "mark"
    last = folder / "last.ckpt"
    if zipped:
        torch.save({"number": Poison(mark)}, last)
    else:
        last.write_bytes(pickle.dumps({"number": Poison(mark)}, protocol=2))
    if recorded:
        (folder / "hashes.json").write_text(json.dumps({"sha256": [checkpoints.sha256_at(last)]}))
    with pytest.raises((HashMismatchError, pickle.UnpicklingError)) as error:
        VerifiedCheckpoints().load_checkpoint(last, weights_only=False)
    assert isinstance(error.value, HashMismatchError) is not recorded
    assert not mark.exists()


FIT = ["fit", "--model", "toy", "--trainer.max_epochs=4"]


def fit(tones: Path, run_dir: Path, *more: str) -> lightning_cli.ASRCLI:
    return lightning_cli.main([*FIT, f"--data.audio_dir={tones}", f"--run_dir={run_dir}", *more])


def test_lightning_itself_loads_only_what_is_known(tones: Path, tmp_path: Path) -> None:
    """Lightning 2.4 asks torch for any object; its plugin is ours."""
    mark = tmp_path / "mark"
    torch.save({"state_dict": Poison(mark)}, tmp_path / "foreign.ckpt")
    with pytest.raises(HashMismatchError, match="another program wrote it"):
        fit(tones, tmp_path / "run", f"--ckpt_path={tmp_path / 'foreign.ckpt'}")
    assert not mark.exists()


def test_a_run_that_stopped_early_inside_an_epoch_is_not_trained_on(tones: Path, tmp_path: Path) -> None:
    """Killed while its weights were chosen and resumed, it ends as it would have."""
    early = ("--early_stopping.patience=2", "--trainer.max_epochs=30", "--early_stopping.min_delta=9")
    once = fit(tones, tmp_path / "run", *early)
    assert once.runner.best.validations[-1].epoch == pytest.approx(1 + 2 / 3)
    copy = Path(shutil.copytree(tmp_path / "run", tmp_path / "copy"))
    shutil.rmtree(copy / "model")
    again = fit(tones, copy, *early, "--ckpt_path=last")
    assert again.runner.best.validations == once.runner.best.validations
    assert again.runner.outcome is not None and again.runner.outcome.cost.train_seconds == 0
    models = [torch.load(folder / "model" / "toy.pt", weights_only=True) for folder in (tmp_path / "run", copy)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def test_no_unsafe_load_is_in_the_package() -> None:
    for place, call in calls():
        name = ast.unparse(call.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert options.get("weights_only", "True") == "True", place
        assert not name.endswith(("load_from_checkpoint", "pl_load", "cloud_io._load")), place
        assert not name.startswith(("joblib.", "dill.", "cloudpickle.", "marshal.", "shelve.")), place
        if name in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
            assert ast.unparse(call.args[0]).startswith("pickle.dumps("), f"{place}: bytes that were made elsewhere"
        if name == "torch.load":
            assert options.get("weights_only") == "True", place
        assert not name.startswith("torch.jit.load"), place
    for path in PACKAGE.rglob("*.py"):
        assert "NO_WEIGHTS_ONLY" not in path.read_text(), path
