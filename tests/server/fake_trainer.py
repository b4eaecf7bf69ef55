"""A quick trainer that behaves as ``run-job`` must. The JSON in its source sets what it does.

steps: number of steps of 10 ms each; every second one is a checkpoint. ignore: neither the flag nor SIGTERM stops it.
child: it starts a process that outlives it. die: the step at which it kills itself, once, or "packaged" for before the
exit record. bare: its exit record has no artifact. error: the error of its exit record. flood: number of bytes printed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from asr_lightning.durable.files import read_json, write_json
from asr_lightning.job_folder import worker

STEP_S = 0.01


def main(folder: Path) -> int:
    worker.hold_locks()
    todo = read_json(folder / "assignment.json")
    assert todo is not None
    behaviour = json.loads(todo["source"] or "{}")
    run = folder / "run"
    run.mkdir(exist_ok=True)
    with (run / "lives.txt").open("a") as lives:
        lives.write(f"{todo['attempt']} {os.getpid()} {todo['device']}\n")
    prove_alone(folder.parents[1], todo["device"])
    sys.stdout.write("x" * behaviour.get("flood", 0))
    if behaviour.get("ignore"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour.get("child"):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    return train(folder, todo, behaviour)


def prove_alone(home: Path, device: str) -> None:
    """Leave a note if another trainer is on the device: by a lock that the engine knows nothing of."""
    lock = os.open(home / f"proof-{device}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until this process ends
    except BlockingIOError:
        (home / "two-on-one-device").touch()


def train(folder: Path, todo: dict, behaviour: dict) -> int:
    steps = behaviour.get("steps", 4)
    checkpoint = folder / "run" / "checkpoint.json"
    saved = (read_json(checkpoint) or {}) if todo["resume"] else {}
    first = saved.get("step", 0)
    progress = {"attempt": todo["attempt"], "epochs": todo["spec"]["epochs"], "resumed_from": f"step-{first}"}

    def say(phase: str, message: str, **more: object) -> None:
        write_json(folder / "progress.json", {**progress, "phase": phase, "message": message, **more})

    say("preparing", "running base model evaluation")
    for step in range(first, steps):
        if worker.is_cancelled(folder) and not behaviour.get("ignore"):
            return end(folder, todo, {"code": "cancelled", "message": "", "param": None})
        say("running", "training, epoch 1 of 1", epoch=1.0, fraction=step / steps)
        die(behaviour, step, first, folder)
        time.sleep(STEP_S)
        if step % 2 == 1:
            write_json(checkpoint, {"step": step + 1})
    if "error" in behaviour:
        return end(folder, todo, behaviour["error"])
    say("evaluating", "running fine-tuned model evaluation")
    say("packaging", "packaging model")
    return package(folder, todo, behaviour, steps)


def die(behaviour: dict, place: object, first: int, folder: Path) -> None:
    if behaviour.get("die") == place and not (behaviour.get("once", True) and (folder / "run" / "died").exists()):
        (folder / "run" / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def package(folder: Path, todo: dict, behaviour: dict, steps: int) -> int:
    artifacts = folder / "artifacts"
    artifacts.mkdir(exist_ok=True)
    weights = hashlib.sha256(f"{todo['spec']['seed']} {steps}".encode()).digest() * 64
    if not behaviour.get("bare"):
        (artifacts / "model.tar.gz").write_bytes(weights)
        (artifacts / "report.html").write_text("<p>report")
        (artifacts / "report.json").write_text("{}")
    die(behaviour, "packaged", 0, folder)
    names = ("model.tar.gz", "report.html", "report.json")
    digests = {name: hashlib.sha256(weights).hexdigest() for name in names[:1]}
    for name in names[1:]:
        if (artifacts / name).exists():
            digests[name] = hashlib.sha256((artifacts / name).read_bytes()).hexdigest()
    metrics = {"before": 0.5, "after": 0.25, "verdict": "better"}
    return end(folder, todo, None, artifacts=digests, metrics=metrics)


def end(folder: Path, todo: dict, error: dict | None, **more: object) -> int:
    code = 0 if error is None else 1
    write_json(folder / "exit.json", {"attempt": todo["attempt"], "code": code, "error": error, **more})
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
