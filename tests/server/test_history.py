"""Two servers on one home, eight clients, random kills, and a store that is damaged after some of them.

The history must then satisfy P1, P3, P4, P6 and P12. It takes a minute; ``ASR_HISTORY_KILLS=300`` runs it until there
were so many kills, which takes about a quarter of an hour.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from asr_lightning.job_folder.digests import digest_of
from asr_lightning.server.engine import states
from asr_lightning.server.engine.store import Store
from tests.server import driver
from tests.server.driver import wait

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("ASR_HISTORY_S", "60"))
KILLS = int(os.environ.get("ASR_HISTORY_KILLS", "0"))
MODELS = ("quick", "brief", "dies-once", "leaver")
NUM_CLIENTS = 8


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Servers(threading.Thread):
    """Two servers that are started again whenever they end: one has the home, the other is refused and comes back."""

    def __init__(self, home: Path, log: Path) -> None:
        super().__init__(daemon=True)
        self.home, self.log = home, log
        self.ports = [free_port(), free_port()]
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.ending = threading.Event()
        self.kills = 0
        self.damages: list[str] = []

    def run(self) -> None:
        due = time.monotonic() + 2
        while not self.ending.is_set():
            for port in self.ports:
                if port not in self.running or self.running[port].poll() is not None:
                    self.running[port] = self.serve(port)
            if time.monotonic() > due and self.kill_one():
                due = time.monotonic() + random.uniform(1, 2.5)
            self.ending.wait(0.3)
        for process in self.running.values():
            process.terminate()
            process.wait(timeout=30)

    def serve(self, port: int) -> subprocess.Popen[bytes]:
        call = [sys.executable, "-m", "tests.server.serve_process", str(self.home), str(port)]
        with self.log.open("ab") as log:
            return subprocess.Popen(call, cwd=ROOT, stdout=log, stderr=log)

    def kill_one(self) -> bool:
        """kill -9 to the server that answers, or to a trainer, or to both servers before their store is damaged."""
        alive = [port for port in self.ports if answers(port)]
        trainers = [p for p in psutil.process_iter() if is_worker_of(p, self.home)]
        victims: list[int] = [self.running[port].pid for port in alive] + [p.pid for p in trainers]
        if not alive or not victims:
            return False
        if random.random() < 0.3:
            for process in self.running.values():
                process.kill()
                process.wait()
                self.kills += 1
            self.damages.append(damage(self.home))
            return True
        with contextlib.suppress(ProcessLookupError):
            os.kill(random.choice(victims), signal.SIGKILL)
            self.kills += 1
        return True


def damage(home: Path) -> str:
    """Damage the store in one of several ways, and name it; keep a copy that is "yesterday's" the next time."""
    store, log, yesterday = home / "state.db", home / "state.db-wal", home.with_name("yesterday.db")
    kinds = ["lost", "truncated", "garbled", "cut", *(["log cut"] if log.exists() else [])]
    kind = random.choice([*kinds, *(["yesterday"] if yesterday.exists() else [])])
    keep = store.read_bytes()
    if kind == "lost":
        store.unlink()
    elif kind == "truncated":
        os.truncate(store, 0)
    elif kind == "garbled":
        store.write_bytes(os.urandom(len(keep)))
    elif kind == "cut":
        os.truncate(store, len(keep) // 2)
    elif kind == "log cut":
        os.truncate(log, log.stat().st_size // 2)
    else:
        shutil.copy(yesterday, store)
    if kind in ("lost", "yesterday"):
        log.unlink(missing_ok=True)
    yesterday.write_bytes(keep)  # as far as it was written from its log into the file
    return kind


def is_worker_of(process: psutil.Process, home: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(part.startswith(f"{home}/jobs/") for part in process.cmdline())
    return False


def answers(port: int) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1).status_code == 200
    return False


class Customer(threading.Thread):
    """Sends jobs with a key each until one is acknowledged, repeats some, cancels some, and reads their events."""

    def __init__(self, name: str, ports: list[int], ending: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self.ports, self.ending = ports, ending
        self.acknowledged: dict[str, set[str]] = {}
        self.seen: dict[str, dict[int, dict[str, Any]]] = {}  # events by their number, by job
        self.wrong: list[str] = []

    def run(self) -> None:
        with httpx.Client(timeout=5) as self.http:
            number = 0
            while not self.ending.is_set():
                number += 1
                key, model = f"{self.name}-{number}", random.choice(MODELS)
                for _ in range(random.choice([1, 1, 2])):  # a lost answer is asked for again
                    self.create(key, model)
                if random.random() < 0.2:
                    self.ask("POST", f"/v1/jobs/{sorted(self.acknowledged.get(key, {'none'}))[0]}/cancel")
                for ids in random.sample(list(self.acknowledged.values()), min(3, len(self.acknowledged))):
                    self.read_events(sorted(ids)[0])
                time.sleep(random.uniform(0.1, 0.8))

    def read_events(self, job_id: str) -> None:
        """Read what is new; a number must not come twice with other content, nor one below what was seen."""
        seen = self.seen.setdefault(job_id, {})
        last = max(seen, default=0)
        answer = self.ask("GET", f"/v1/jobs/{job_id}/events?after={last}")
        if answer is not None and answer.status_code == 200:
            seen.update({event["seq"]: event for event in answer.json()["data"]})
        elif answer is not None:
            self.wrong.append(f"events of {job_id}: {answer.status_code} {answer.text[:200]}")

    def create(self, key: str, model: str) -> None:
        while not self.ending.is_set():
            files = {"data": ("data.tar.gz", b"\x1f\x8b" + key.encode())}
            answer = self.ask("POST", "/v1/jobs", headers={"Idempotency-Key": key}, data={"model": model}, files=files)
            if answer is not None and answer.status_code in (200, 202):
                self.acknowledged.setdefault(key, set()).add(answer.json()["id"])
                return
            if answer is not None and answer.status_code != 409:  # the queue may be full
                self.wrong.append(f"{answer.status_code} {answer.text[:200]}")
            time.sleep(0.1)

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response | None:
        """The answer of whichever server answers; None when the connection broke."""
        for port in random.sample(self.ports, 2):
            with contextlib.suppress(httpx.HTTPError):
                return self.http.request(method, f"http://127.0.0.1:{port}{path}", **more)
        return None


@contextlib.contextmanager
def served(home: Path, log: Path) -> Iterator[Servers]:
    servers = Servers(home, log)
    servers.start()
    try:
        yield servers
    finally:
        servers.ending.set()
        servers.join()


@pytest.mark.timeout(3600 if KILLS else 600)
def test_history_of_two_servers_on_one_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    ending = threading.Event()
    with served(home, tmp_path / "log") as servers:
        clients = [Customer(f"client-{number}", servers.ports, ending) for number in range(NUM_CLIENTS)]
        for client in clients:
            client.start()
        until = time.monotonic() + SECONDS
        while servers.is_alive() and (servers.kills < KILLS if KILLS else time.monotonic() < until):
            time.sleep(0.2)
        ending.set()
        for client in clients:
            client.join()
    acknowledged = {key: ids for client in clients for key, ids in client.acknowledged.items()}
    with driver.running(home, devices=("cpu",), queue_cap=10_000) as engine:
        wait(lambda: not engine.store.jobs(states.ACTIVE), "every job to end", 120)
        known = {job.id: job for job in engine.store.jobs()}
        ended = [job.state for job in known.values()]
        print(f"{len(acknowledged)} acknowledged, {servers.kills} kills, { ({s: ended.count(s) for s in ended}) }")
        print(f"damages: { ({kind: servers.damages.count(kind) for kind in servers.damages}) }")
        assert [wrong for client in clients for wrong in client.wrong] == []
        assert all(len(ids) == 1 for ids in acknowledged.values())  # P3
        assert {job_id for ids in acknowledged.values() for job_id in ids} <= set(known)  # P1
        assert len(known) - len(acknowledged) <= NUM_CLIENTS  # only a client's last request may lack its answer
        assert not (home / "two-on-one-device").exists()  # P4
        for job in known.values():
            check_ending(engine.store, home, job.id)  # P6
        for client in clients:
            for job_id, seen in client.seen.items():
                check_events(engine.store, job_id, seen)  # P12
    assert len(acknowledged) >= NUM_CLIENTS and servers.kills > len(servers.damages) > 0, "too little happened"


def check_ending(store: Store, home: Path, job_id: str) -> None:
    job = store.job(job_id)
    assert job.state in states.TERMINAL | {"interrupted"}
    driver.assert_allowed(store.events(job_id, limit=10_000))
    if job.state == "succeeded":
        assert job.artifacts
        for name, digest in job.artifacts.items():
            assert digest_of(home / "jobs" / job_id / "artifacts" / name) == digest


def check_events(store: Store, job_id: str, seen: dict[int, dict[str, Any]]) -> None:
    """No number was given to another event than the one that a client has seen under it."""
    known = {event.seq: event for event in store.events(job_id, limit=10_000)}
    for number, event in seen.items():
        if number in known:
            assert (known[number].time, known[number].kind) == (event["time"], event["kind"]), (job_id, number)
    assert max(known) >= max(seen, default=0)
