"""All parts together: `serve` as a user starts it, a real training, curl, and kill -9."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asr_lightning.adapters import saved
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.server.engine import states

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "examples" / "german_accent" / "clips"
CLOSED = ("--no_tensorboard", "--device", "cpu", "--port", "0")


class Server:
    """`python -m asr_lightning serve`.

    Attributes:
        url: Its address.
    """

    def __init__(self, home: Path, *options: str) -> None:
        call = [sys.executable, "-m", "asr_lightning", "serve", "--home", str(home), *CLOSED, *options]
        unset = {"ASR_SERVER_TOKEN", "SERVER_HOSTNAME"}
        env = {name: value for name, value in os.environ.items() if name not in unset}
        self.process = subprocess.Popen(call, cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        self.url = "http://" + next(filter(None, map(listening, self.process.stderr)))

    def curl(self, path: str, *options: str) -> str:
        call = ["curl", "-sS", "--max-time", "60", *options, f"{self.url}{path}"]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(timeout=30)
        assert self.process.stderr is not None
        self.process.stderr.close()


def listening(line: str) -> str | None:
    match = re.search(r"listening on http://(\S+)", line)
    return match[1] if match else None


@contextmanager
def served(home: Path, *options: str) -> Iterator[Server]:
    server = Server(home, *options)
    try:
        yield server
    finally:
        server.end()


def wait_for(server: Server, until: Callable[[dict[str, Any]], bool], seconds: float = 300) -> list[dict[str, Any]]:
    """The answers of /status that differ, up to the first that will do."""
    answers: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    while not answers or not until(answers[-1]):
        answer = json.loads(server.curl("/status"))
        if not answers or answer != answers[-1]:
            answers.append(answer)
        assert time.monotonic() < deadline, answers[-1]
        time.sleep(0.05)
    return answers


def archive(folder: Path, target: Path) -> Path:
    """As the README of this server's predecessor makes it."""
    subprocess.run(["tar", "-czf", str(target), "-C", str(folder), "."], check=True)
    return target


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl: apt-get install curl")


@needs_curl
@pytest.mark.once
@pytest.mark.timeout(1200)  # after so little training the model loops on the canary: minutes on a busy machine
def test_seeds_commands_train_whisper_and_fetch_a_model_that_loads(tmp_path: Path) -> None:
    """Twenty clips of the sample, for one epoch in four folds: minutes with all of them."""
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(SAMPLE.glob("*.txt"))[::15]:
        shutil.copy(path, few)
        shutil.copy(next(path.parent.glob(f"{path.stem}.[!t]*")), few)
    data = archive(few, tmp_path / "data.tar.gz")
    form = ["-X", "POST", "-F", "base_model_name=openai/whisper-tiny.en", "-F", f"data=@{data}", "-F", "epochs=1"]
    with served(tmp_path / "home") as server:
        training_id = json.loads(server.curl("/training", *form))["training_id"]
        busy = server.curl("/training", "-i", *form)
        assert " 409 " in busy.splitlines()[0]
        assert re.search(r"(?im)^retry-after: \d+", busy)
        assert training_id in busy
        answers = wait_for(server, lambda answer: answer["status"] == "idle", 1100)
        assert answers[-1]["progress"] == "finished", answers[-1]
        stages = [answer["progress"] for answer in answers]
        assert {"running base model evaluation", "finished"} <= set(stages), stages
        assert any(stage.startswith("training, epoch 1 of 1, fold ") for stage in stages), stages
        server.curl(f"/download_model?training_id={training_id}", "-o", str(tmp_path / "model.tar.gz"))
    with tarfile.open(tmp_path / "model.tar.gz") as members:
        members.extractall(tmp_path / "got", filter="data")
    (record,) = (tmp_path / "got").rglob(saved.FILE_NAME)
    adapter = saved.load(record.parent)
    assert "whisper" in type(adapter).__name__.lower()


def train_toy(home: Path, models: Path, data: Path, kill: bool) -> str:
    """Train the toy through a server, which is killed once on the way; returns the sha256 of the model."""
    form = ["-F", "model=tones", "-F", f"data=@{data}", "-F", "epochs=6", "-F", "seed=3"]
    server = Server(home, "--models_dir", str(models))
    try:
        job = json.loads(server.curl("/v1/jobs", *form))["id"]
        if kill:
            # From here to the end the trainer takes six seconds, 0.2 of them in its epochs: a look every
            # 50 ms may miss a single phase.
            wait_for(server, lambda answer: answer["state"] in states.PHASES)
            time.sleep(random.uniform(1, 6))  # not before the trainer is there: that is another test
            server.end(signal.SIGKILL)
            server = Server(home, "--models_dir", str(models))
        last = wait_for(server, lambda answer: answer["status"] == "idle")[-1]
        assert last["state"] == "succeeded", last
        assert json.loads(server.curl(f"/v1/jobs/{job}"))["attempt"] == 1  # the trainer itself lived on
        model = home / "got.tar.gz"
        server.curl(f"/v1/jobs/{job}/artifacts/model.tar.gz", "-o", str(model))
    finally:
        server.end()
    with tarfile.open(model) as members:
        (weights,) = (member for member in members if member.name.endswith((".safetensors", ".pt")))
        member = members.extractfile(weights)
        assert member is not None
        return hashlib.sha256(member.read()).hexdigest()


@needs_curl
def test_killed_server_changes_no_weight(tones: Path, tmp_path: Path) -> None:
    """A kill -9 at a random moment of the training, and an undisturbed run beside it."""
    toy = tmp_path / "models" / "tones"
    toy.mkdir(parents=True)
    ToyAdapter().save(toy)
    data = archive(tones, tmp_path / "data.tar.gz")
    disturbed = train_toy(tmp_path / "one", tmp_path / "models", data, kill=True)
    assert disturbed == train_toy(tmp_path / "two", tmp_path / "models", data, kill=False)
