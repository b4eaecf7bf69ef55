"""However a command ends before its time, its last line says what is kept and what to do, and doing so works."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

from asr_lightning.__main__ import main
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.cli import endings, specialize
from asr_lightning.cli.stopping import RunStoppedError
from asr_lightning.durable import faults
from asr_lightning.job_folder import failure
from asr_lightning.training.checkpoints import VerifiedCheckpoints

ROOT = Path(__file__).parents[2]
SHORT = ["--trainer.max_epochs", "2", "--selection.canary", "off", "--trainer.accelerator", "cpu"]
KEPT = "keeps what was trained: add --ckpt_path last to the same command, and it goes on from there"
NOTHING = "Nothing was trained to the end of an epoch yet: give the same command again"


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A folder with an untrained toy."""
    ToyAdapter().save(tmp_path / "toy")
    return tmp_path / "toy"


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Lightning ignores Ctrl-C once it has been pressed."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def stop_at(name: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Send this process the signal ``number`` when it first reaches the point ``name``."""
    passed = []

    def point(reached: str) -> None:
        if reached == name and not passed:
            passed.append(reached)
            os.kill(os.getpid(), number)

    monkeypatch.setattr(faults, "point", point)


@pytest.mark.parametrize(
    ("folds", "number", "point", "hint"),
    [
        ("off", signal.SIGINT, "training.checkpoint.kept", KEPT),
        ("off", signal.SIGINT, "training.best.kept", NOTHING),
        ("off", signal.SIGTERM, "training.checkpoint.kept", KEPT),
        ("2", signal.SIGINT, "training.fold.kept", KEPT),
    ],
)
def test_a_stopped_run_says_how_it_goes_on(
    folds: str,
    number: int,
    point: str,
    hint: str,
    toy: Path,
    tones: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_dir = tmp_path / "run"
    command = ["specialize", str(tones), "--model", str(toy), "--run_dir", str(run_dir), "--folds", folds, *SHORT]
    with monkeypatch.context() as patch:
        stop_at(point, number, patch)
        assert main(command) == 128 + number
    printed = capsys.readouterr().err
    assert hint in printed.splitlines()[-1] and "Traceback" not in printed
    assert ("stopped." if number == signal.SIGINT else "stopped by SIGTERM.") in printed.splitlines()[-1]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert main([*command, *(["--ckpt_path", "last"] if hint == KEPT else [])]) == 0
    assert (run_dir / "results.json").is_file()
    assert len(list(run_dir.glob("config*.yaml"))) == (2 if hint == KEPT and folds == "off" else 1)


def test_stopped_seeds_say_that_they_start_again(
    toy: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at("training.best.kept", signal.SIGINT, monkeypatch)
    command = [str(tones), "--model", str(toy), "--run_dir", str(tmp_path / "run"), "--folds", "off", "--seeds", "2"]
    with pytest.raises(RunStoppedError, match="stopped at seed 0. .*run keeps the finished seeds, .* starts with the"):
        specialize.run("specialize", [*command, *SHORT])


def test_a_full_disk_is_named_and_the_run_goes_on_later(
    toy: Path, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = tmp_path / "run"
    command = ["specialize", str(tones), "--model", str(toy), "--run_dir", str(run_dir), "--folds", "off", *SHORT]
    faults.forget()
    monkeypatch.setenv(faults.VARIABLE, "training.checkpoint.recorded:enospc:2")
    assert main(command) == 2
    printed = capsys.readouterr().err
    assert f"error: the disk is full ([Errno 28] No space left on device): free some space. {run_dir} {KEPT}" in printed
    monkeypatch.delenv(faults.VARIABLE)
    assert main([*command, "--ckpt_path", "last"]) == 0
    assert (run_dir / "results.json").is_file()


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow over 100 kB, which programs see as they see a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("small_files")
def test_half_a_checkpoint_is_no_riddle_and_takes_no_space(tmp_path: Path) -> None:
    with pytest.raises((RuntimeError, OSError)) as caught:
        VerifiedCheckpoints().save_checkpoint({"weights": torch.zeros(100_000)}, tmp_path / "new.ckpt")
    assert failure.failure_of(caught.value, tmp_path).code == "disk_full"
    ending = endings.of(caught.value)
    assert (
        ending is not None and ending.status == 2 and "the disk is full ([Errno 27] File too large)" in ending.message
    )
    assert list(tmp_path.iterdir()) == []


def out_of_memory() -> None:
    torch.empty(2**50)


def test_used_up_memory_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError) as caught:
        out_of_memory()
    ending = endings.of(caught.value)
    assert ending is not None and "the memory is used up (" in ending.message
    assert "--data.batch_size 4" in ending.message


def test_an_error_of_ours_keeps_its_traceback() -> None:
    assert endings.of(KeyError("x")) is None
    assert endings.of(BrokenPipeError()) is not None, "of another pipe than the output"


@pytest.mark.parametrize("buffering", ["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [["models"], ["models", "--json"], ["--help"]])
def test_a_closed_pipe_ends_in_silence(arguments: list[str], buffering: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1" if buffering == "unbuffered" else "")
    read, write = os.pipe()
    os.close(read)
    call = [sys.executable, "-m", "asr_lightning", *arguments]
    try:
        result = subprocess.run(call, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, cwd=ROOT)
    finally:
        os.close(write)
    assert (result.returncode, result.stderr) == (endings.BROKEN_PIPE, "")


@pytest.fixture(scope="module")
def run_dir(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over a folder that is called 1e5; do not write here."""
    folder = tmp_path_factory.mktemp("finished")
    ToyAdapter().save(folder / "toy")
    shutil.copytree(tones_once, folder / "1e5")
    run = ["specialize", "1e5", "--model", "toy", "--run_dir", "1e6", "--folds", "off", *SHORT]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*run[:-4], "--trainer.max_epochs", "3", *run[-4:]]) == 0
    return folder / "1e6"


def without_quotes(config: Path) -> None:
    """Write names as earlier versions did, which left out the quotation marks of 1e5."""
    config.write_text(config.read_text().replace("'1e5'", "1e5").replace("'1e6'", "1e6"))


@pytest.mark.parametrize("spoil", [None, without_quotes], ids=["now", "earlier versions"])
@pytest.mark.parametrize("command", ["validate", "test"])
def test_a_folder_may_have_the_name_of_a_number(
    command: str, spoil: Callable[[Path], None] | None, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path(shutil.copytree(run_dir.parent, tmp_path / "copy"))
    config = place / "1e6" / "config.yaml"
    assert yaml.safe_load(config.read_text())["data"]["audio_dir"] == "1e5"
    if spoil:
        spoil(config)
        assert "audio_dir: 1e5\n" in config.read_text()
    monkeypatch.chdir(place)
    assert main([command, "1e6"]) == 0


def test_the_configuration_of_such_a_run_starts_another(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_dir.parent)
    assert main(["fit", "--config", "1e6/config.yaml", "--run_dir", "again", "--trainer.max_epochs", "1"]) == 0


def test_a_run_past_its_end_is_told_what_to_set(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(shutil.copytree(run_dir.parent, tmp_path / "copy")))
    again = ["specialize", "1e5", "--model", "toy", "--run_dir", "1e6", "--folds", "off", *SHORT, "--ckpt_path", "last"]
    assert main([*again, "--trainer.max_epochs", "1"]) == 2
    expected = (
        "the run in 1e6 has trained 3 epochs already, and cannot end after 1: give --trainer.max_epochs 3 or more"
    )
    assert expected in capsys.readouterr().err
    assert main([*again, "--trainer.max_epochs", "3"]) == 0
