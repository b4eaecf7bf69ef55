"""What Windows lacks is hidden in a fresh interpreter, and the commands that work there do their work to the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
ON_WINDOWS = """
import contextlib, io, json, os, signal, sys, traceback
# Packages that ask sys.platform are imported first. Lightning does so later, for SIGKILL and SIGUSR1, so these stay.
import av, httpx, lightning.pytorch.cli, psutil, soundfile, tqdm, torch.utils.tensorboard, torchmetrics, transformers

for name in ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for module, names in {
    os: "O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_NOCTTY O_SYNC fork forkpty setsid killpg getpgid getuid geteuid "
        "getgid chown fchown fchmod mkfifo statvfs sync uname sched_getaffinity sched_setaffinity nice pread pwrite",
    signal: "SIGHUP SIGALRM SIGQUIT SIGCHLD SIGPIPE alarm setitimer pause",
}.items():
    for name in names.split():
        delattr(module, name)

from asr_lightning.__main__ import main

def run(command):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            status = main(command)
        except BaseException:
            traceback.print_exc()
            status = "raised"
    return status, out.getvalue(), err.getvalue()

print(json.dumps([run(command) for command in json.loads(sys.argv[1])]))
"""
SHORT = ["--trainer.max_epochs", "2", "--folds", "off", "--selection.canary", "off"]
COMMANDS = {
    "fit": ["fit", "--config", "configs/models/toy.yaml", "--data.audio_dir", "TONES", "--run_dir", "RUN", *SHORT],
    "validate": ["validate", "--run_dir", "RUN"],
    "test": ["test", "--run_dir", "RUN"],
    "predict": ["predict", "TONES", "--model", "RUN/model", "--output", "RUN/texts.csv"],
    "specialize": ["specialize", "TONES", "--model", "RUN/model", "--run_dir", "RUN/next", *SHORT],
    "remote": ["remote", "submit", "TONES", "--server", "http://127.0.0.1:9"],
    "serve": ["serve", "--port", "0"],
    "serve --help": ["serve", "--help"],
}


class Result(NamedTuple):
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the run that ``fit`` makes."""
    return tmp_path_factory.mktemp("windows") / "run"


@pytest.fixture(scope="module")
def results(tones_once: Path, run_dir: Path) -> dict[str, Result]:
    """Results of all commands, which run one after the other in one interpreter that lacks what Windows lacks."""
    places = {"TONES": str(tones_once), "RUN": str(run_dir)}
    commands = []
    for command in COMMANDS.values():
        for name, place in places.items():
            command = [argument.replace(name, place) for argument in command]
        commands.append(command)
    call = [sys.executable, "-c", ON_WINDOWS, json.dumps(commands)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return {name: Result(*result) for name, result in zip(COMMANDS, json.loads(done.stdout), strict=True)}


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict", "specialize"])
def test_a_command_works(command: str, results: dict[str, Result]) -> None:
    assert results[command].status == 0, results[command].err


def test_a_training_leaves_everything(results: dict[str, Result], run_dir: Path) -> None:
    for folder in (run_dir, run_dir / "next"):
        assert json.loads((folder / "results.json").read_text(encoding="utf-8"))["peak_memory_mb"] > 0
        assert (folder / "model" / "toy.pt").is_file()
        assert (folder / "checkpoints" / "last.ckpt").is_file()


def test_the_client_packs_the_folder_and_misses_only_the_server(results: dict[str, Result]) -> None:
    assert "Connection refused" in results["remote"].err and "Traceback" not in results["remote"].err


def test_the_server_says_what_it_needs(results: dict[str, Result]) -> None:
    assert results["serve"].status == 2
    assert "serve needs Linux or macOS: run it there, and send recordings to it with remote" in results["serve"].err
    assert results["serve --help"].status == "raised" and "usage" in results["serve --help"].out, "as argparse ends"
