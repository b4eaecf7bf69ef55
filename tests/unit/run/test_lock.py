"""A run folder belongs to one run at a time, whichever command or process wants it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch import Callback

import asr_lightning as asr
from asr_lightning.__main__ import main
from asr_lightning.errors import OptionError
from asr_lightning.run.lock import RunLock

HOLD = """
import sys
from pathlib import Path
from asr_lightning.run.lock import RunLock
RunLock(Path(sys.argv[1])).take(new=True)
print("held", flush=True)
sys.stdin.read()
"""


class Intruder(Callback):
    """Starts other runs in the folder of the run that it is a callback of, through every door."""

    def __init__(self, tones: Path, run_dir: Path) -> None:
        self.tones, self.run_dir = tones, run_dir
        self.refused: list[str] = []

    def on_train_epoch_start(self, *_: object) -> None:
        if self.refused:
            return
        place = [f"--run_dir={self.run_dir}"]
        for arguments in (
            ["specialize", str(self.tones), "--model=toy", *place],
            ["specialize", str(self.tones), "--model=toy", "--seeds=2", *place],
            ["fit", "--model=toy", f"--data.audio_dir={self.tones}", *place],
            ["fit", "--model=toy", f"--data.audio_dir={self.tones}", "--ckpt_path=last", *place],
        ):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("ASR_LIGHTNING_DEBUG", "1")
                with pytest.raises(OptionError) as refusal:
                    main(arguments)
            self.refused.append(str(refusal.value))
        with pytest.raises(OptionError) as refusal:
            asr.specialize(self.tones, "toy", run_dir=self.run_dir)
        self.refused.append(str(refusal.value))


def test_a_second_run_is_told_who_has_the_folder(tones_once: Path, tmp_path: Path) -> None:
    """The second run renamed the folder under the first, which died with a traceback."""
    run_dir = tmp_path / "run"
    intruder = Intruder(tones_once, run_dir)
    outcome = asr.specialize(tones_once, "toy", run_dir=run_dir, epochs=1, callbacks=intruder)
    assert len(intruder.refused) == 5
    for message in intruder.refused:
        assert message.startswith(f"{run_dir} is in use by process {os.getpid()} on ")
        assert message.endswith(f"or name another folder, such as --run_dir {tmp_path / 'run-2'}")
    assert outcome.report.is_file() and [path.name for path in tmp_path.iterdir()] == ["run"]
    again = asr.specialize(tones_once, "toy", run_dir=run_dir, epochs=1)  # it is free now
    assert again.report.is_file() and (tmp_path / "run-2" / "results.json").is_file()


def test_a_run_that_failed_frees_its_folder(tones_once: Path, tmp_path: Path) -> None:
    class Fails(Callback):
        def on_train_start(self, *_: object) -> None:
            raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        asr.specialize(tones_once, "toy", run_dir=tmp_path / "run", epochs=1, callbacks=Fails())
    with RunLock(tmp_path / "run") as lock:
        lock.take(new=False)


@pytest.mark.once
def test_a_kill_frees_the_folder(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None and holder.stdin is not None
    with holder.stdout, holder.stdin:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OptionError, match=f"is in use by process {holder.pid} on .*: wait until that run"):
            RunLock(run_dir).refuse_if_held()
        holder.kill()
        holder.wait()
    RunLock(run_dir).refuse_if_held()
    with RunLock(run_dir) as lock:
        lock.take(new=True)
        with pytest.raises(OptionError, match=f"is in use by process {os.getpid()} on"):
            RunLock(run_dir).take(new=True)


def test_the_lock_is_held_while_an_earlier_run_is_set_aside(tmp_path: Path) -> None:
    """The lock file goes with the renamed folder, so the new folder needs one of its own."""
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    (run_dir / "config.yaml").touch()
    with RunLock(run_dir) as lock:
        lock.take(new=True)
        assert (tmp_path / "run-2" / "config.yaml").exists() and not (run_dir / "config.yaml").exists()
        with pytest.raises(OptionError, match="is in use"):
            RunLock(run_dir).refuse_if_held()
        RunLock(tmp_path / "run-2").refuse_if_held()


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_locks(path: Path) -> int:
        raise OSError(37, "No locks available", str(path))

    monkeypatch.setattr("asr_lightning.run.lock.take_lock", no_locks)
    RunLock(tmp_path / "run").take(new=True)
    assert "cannot be locked (No locks available): start no second run" in caplog.text
