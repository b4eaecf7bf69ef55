"""Measures the training server under load, and how much the load slows the training, alone and loaded in turns.

Run: ``python benchmarks/server_load.py``, which takes five minutes on a machine that does nothing else; ``--quick``
takes one minute, with a trainer that only multiplies matrices. It starts a server with a fresh home, trains
whisper-tiny.en on the sample data set with one thread, and lets 200 clients poll ``/status`` and the job's events while
20 others upload 30 MB each, over and over. All clients run in one process on the same machine, so that their share of
the cores counts against the server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[1]
CLIPS = ROOT / "examples" / "german_accent" / "clips"
MB = 1_000_000
PIECE = 64 << 10


def main() -> None:
    """Parse the command line; without ``--load``, ``--burn`` or ``--serve``, do the whole run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between a client's polls")
    parser.add_argument("--uploads", type=int, default=20)
    parser.add_argument("--upload_mb", type=int, default=30)
    parser.add_argument("--upload_s", type=float, default=20.0, help="seconds that an upload takes: the link's speed")
    parser.add_argument("--window", type=float, help="seconds of one measurement, alone and loaded in turns")
    parser.add_argument("--windows", type=int, default=2, help="measurements of each kind")
    parser.add_argument("--load", nargs=2, metavar=("URL", "JOB"), help=argparse.SUPPRESS)
    parser.add_argument("--burn", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.window = options.window or (12.0 if options.quick else 60.0)
    if options.burn:
        burn(options.burn)
    elif options.serve:
        serve(options.serve)
    elif options.load:
        print(json.dumps(asyncio.run(load(*options.load, options))))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Start a server and a training, measure windows in turns, and print both."""
    print(f"before: {os.getloadavg()[0]:.1f} other processes run on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="asr-load-") as folder:
        home = Path(folder) / "home"
        server, url = start(home, options.quick)
        try:
            job = submit(url, Path(folder), options.quick)
            watch = Watch(home / "jobs" / job / "progress.json")
            watch.until_training(300)
            alone, loaded, client_stats, used = [], [], [], 0.0
            for _ in range(options.windows):
                alone.append(watch.speed(options.window))
                generator = subprocess.Popen(
                    [sys.executable, __file__, *forwarded(options), "--load", url, job],
                    stdout=subprocess.PIPE, text=True,
                )  # fmt: skip
                time.sleep(2)  # until it has started, it is no load for the server
                before = psutil.Process(server.pid).cpu_times().user + psutil.Process(server.pid).cpu_times().system
                loaded.append(watch.speed(options.window))
                after = psutil.Process(server.pid).cpu_times()
                used += after.user + after.system - before
                client_stats.append(json.loads(generator.communicate(timeout=180)[0]))
            report(options, alone, loaded, client_stats, peak_mb(server.pid), used / options.windows / options.window)
            httpx.post(f"{url}/v1/jobs/{job}/cancel", timeout=60)
            wait_for(url, job, {"cancelled"}, 60)
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)


def peak_mb(pid: int) -> float:
    """Return the largest memory that a process has had, as Linux reports it."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else float("nan")


def forwarded(options: argparse.Namespace) -> list[str]:
    """Return the command-line options for the process of the clients."""
    names = ("clients", "every", "uploads", "upload_mb", "upload_s")
    seconds = options.window + 3  # a little longer than the measurement; uploads that have begun are finished
    return [*(f"--{name}={getattr(options, name)}" for name in names), f"--window={seconds}"]


def report(
    options, alone: list[float], loaded: list[float], client_stats: list[dict], peak: float, share: float
) -> None:
    """Print latencies, errors, memory and speeds."""
    print(
        f"{options.clients} clients look every {options.every:g} s; "
        f"{options.uploads} upload {options.upload_mb} MB in {options.upload_s:g} s each, all the time"
    )
    for kind in ("status", "events"):
        times = sorted(seconds for each in client_stats for seconds in each[kind])
        cuts = statistics.quantiles(times, n=100)
        print(
            f"{kind:8}{len(times):7} requests   p50 {1000 * cuts[49]:6.1f} ms   p99 {1000 * cuts[98]:6.1f} ms   "
            f"longest {1000 * times[-1]:6.1f} ms"
        )
    print(f"uploads {sum(each['uploads'] for each in client_stats):7} of {options.upload_mb} MB")
    errors = [error for each in client_stats for error in each["errors"]]
    print(f"errors  {len(errors):7}{'   ' + '; '.join(sorted(set(errors))[:5]) if errors else ''}")
    clients = sum(each["cpu_s"] / each["wall_s"] for each in client_stats) / len(client_stats)
    print(f"server: peak memory {peak:.0f} MB, {share:.0%} of a core; the clients' process: {clients:.0%} of a core")
    print(
        f"the clients' process itself stood still for at most {1000 * max(e['stall_s'] for e in client_stats):.0f} ms"
    )
    pairs = zip(alone, loaded, strict=True)
    print("training, steps/s alone and loaded: " + ", ".join(f"{a:.3f} {b:.3f}" for a, b in pairs))
    print(f"slower by {1 - statistics.mean(loaded) / statistics.mean(alone):.1%}")


def start(home: Path, quick: bool) -> tuple[subprocess.Popen, str]:
    """Start a server on a free port, and return it with its address."""
    command = ["-m", "asr_lightning", "serve", "--home", str(home), "--port", "0", "--no_tensorboard"]
    server = subprocess.Popen(
        [sys.executable, *([__file__, "--serve", str(home)] if quick else command)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert server.stderr is not None
    for line in server.stderr:
        if match := re.search(r"listening on (http://\S+)", line):
            return server, match[1]
    raise SystemExit("the server did not start")


def submit(url: str, folder: Path, quick: bool) -> str:
    """Start a training that lasts longer than the measurement, and return its id."""
    archive = folder / "data.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in sorted(CLIPS.iterdir())[: 20 if quick else None]:
            if path.is_file():
                tar.add(path, path.name)
    fields = {"model": "whisper-tiny.en", "epochs": "100"}
    with archive.open("rb") as file:
        answer = httpx.post(f"{url}/v1/jobs", data=fields, files={"data": file}, timeout=60)
    answer.raise_for_status()
    return str(answer.json()["id"])


def wait_for(url: str, job: str, wanted: set[str], seconds: float) -> None:
    """Wait until the job is in one of the ``wanted`` states."""
    until = time.monotonic() + seconds
    while (state := httpx.get(f"{url}/v1/jobs/{job}").json()["state"]) not in wanted:
        if time.monotonic() > until or state in {"failed", "interrupted"}:
            raise SystemExit(f"the job is {state}")
        time.sleep(0.2)


class Watch:
    """Reads the training's count of steps from its file, so that the speed of the server does not matter."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def look(self) -> tuple[float, int]:
        """Return the time at which the file was written, and the step."""
        try:
            return self.path.stat().st_mtime, int(json.loads(self.path.read_text()).get("step") or 0)
        except (OSError, ValueError):
            return 0.0, 0

    def until_training(self, seconds: float) -> None:
        """Wait for the third step: the first ones are slow."""
        until = time.monotonic() + seconds
        while self.look()[1] < 3:
            if time.monotonic() > until:
                raise SystemExit(f"no training within {seconds:.0f} s")
            time.sleep(0.1)

    def speed(self, seconds: float) -> float:
        """Measure the steps per second between the first and the last change of the count."""
        seen: list[tuple[float, int]] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            written, step = self.look()
            if not seen or step > seen[-1][1]:
                seen.append((written, step))
            time.sleep(0.05)
        (first, start), (last, end) = seen[1], seen[-1]  # the first may be older than the window
        return (end - start) / (last - first)


async def load(url: str, job: str, options: argparse.Namespace) -> dict:
    """Poll and upload for ``options.window`` seconds, and return latencies, errors and CPU time."""
    stats: dict = {"status": [], "events": [], "errors": [], "uploads": 0, "stall_s": 0.0}
    async with AsyncExitStack() as stack:

        async def own() -> httpx.AsyncClient:
            """Make a client with its own connection: in a shared pool of hundreds, requests wait for the pool."""
            client = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False, verify=False)
            return await stack.enter_async_context(client)

        pollers = [await own() for _ in range(options.clients)]
        senders = [await own() for _ in range(options.uploads)]
        until = time.monotonic() + options.window
        tasks = [poll(http, job, options.every, until, stats) for http in pollers]
        tasks += [send(http, options, until, stats) for http in senders]
        tasks.append(stalls(until, stats))
        await asyncio.gather(*tasks)
    return {**stats, "cpu_s": time.process_time(), "wall_s": time.monotonic() - until + options.window}


async def stalls(until: float, stats: dict) -> None:
    """Measure the longest time that this process itself was blocked: shorter latencies may not be the server's."""
    while (before := time.monotonic()) < until:
        await asyncio.sleep(0.02)
        stats["stall_s"] = max(stats["stall_s"], time.monotonic() - before - 0.02)


async def poll(http: httpx.AsyncClient, job: str, every: float, until: float, stats: dict) -> None:
    """Act as one client, which polls status and new events."""
    after = 0
    await asyncio.sleep(random.random() * every)
    while time.monotonic() < until:
        started = time.monotonic()
        await timed(http, "/status", "status", stats)
        page = await timed(http, f"/v1/jobs/{job}/events?after={after}", "events", stats)
        if page and page["data"]:
            after = page["data"][-1]["seq"]
        await asyncio.sleep(max(0.0, started + every - time.monotonic()))


async def timed(http: httpx.AsyncClient, path: str, kind: str, stats: dict):
    """Return the JSON at ``path``, and add the latency to ``stats``."""
    started = time.perf_counter()
    try:
        answer = await http.get(path)
    except httpx.HTTPError as error:
        stats["errors"].append(f"{kind}: {type(error).__name__}")
        return None
    stats[kind].append(time.perf_counter() - started)
    if answer.status_code != 200:
        stats["errors"].append(f"{kind}: HTTP {answer.status_code}")
        return None
    return answer.json()


async def send(http: httpx.AsyncClient, options: argparse.Namespace, until: float, stats: dict) -> None:
    """Act as one uploader, which sends file after file at the speed of a link; the last may end after ``until``."""
    while time.monotonic() < until:
        try:
            answer = await http.post("/v1/uploads")
            path = f"/v1/uploads/{answer.raise_for_status().json()['id']}"
            body = paced(options.upload_mb * MB, options.upload_s)
            (await http.put(path, params={"offset": 0}, content=body)).raise_for_status()
            (await http.delete(path)).raise_for_status()
            stats["uploads"] += 1
        except httpx.HTTPError as error:
            stats["errors"].append(f"upload: {str(error)[:80] or type(error).__name__}")
            await asyncio.sleep(0.5)


async def paced(size: int, seconds: float) -> AsyncIterator[bytes]:
    """Yield ``size`` bytes that begin like a gzip file, spread over ``seconds``."""
    piece = b"\x1f\x8b\x08" + random.randbytes(PIECE - 3)
    started, sent = time.monotonic(), 0
    while sent < size:
        yield piece[: size - sent]
        sent += len(piece)
        await asyncio.sleep(max(0.0, started + seconds * sent / size - time.monotonic()))


def burn(job: Path) -> None:
    """Act as a trainer that follows the rules of a job's folder and multiplies matrices until it is cancelled."""
    import numpy as np

    from asr_lightning.durable.files import read_json, write_json
    from asr_lightning.job_folder import worker

    worker.hold_locks()
    todo = read_json(job / "assignment.json") or {}
    matrix = np.random.default_rng(0).standard_normal((384, 384)).astype(np.float32)
    step, told = 0, 0.0
    while not worker.is_cancelled(job):
        for _ in range(20):
            matrix = np.tanh(matrix @ matrix)
        step += 1
        if time.monotonic() - told > 0.5:
            told = time.monotonic()
            write_json(job / "progress.json", {
                "attempt": todo["attempt"], "phase": "running", "message": "training, epoch 1 of 100", "step": step,
            })  # fmt: skip
    write_json(job / "exit.json", {"attempt": todo["attempt"], "code": 1, "error": {
        "code": "cancelled", "message": "", "param": None,
    }})  # fmt: skip
    sys.exit(1)


def serve(home: Path) -> None:
    """Run the server like the command ``serve``, but with ``burn`` as its trainer."""
    import socket

    from asr_lightning.server.engine.engine import Engine
    from asr_lightning.server.engine.settings import EngineSettings
    from asr_lightning.server.http.app import create_app
    from asr_lightning.server.http.models import catalogue
    from asr_lightning.server.http.run import serve_app

    models = catalogue()
    engine = Engine(EngineSettings(home, models=models.sources, trainer=(sys.executable, __file__, "--burn")))
    engine.start()
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        line = f"listening on http://127.0.0.1:{listener.getsockname()[1]}"
        serve_app(create_app(engine, models=models), listener, lambda: print(line, file=sys.stderr, flush=True))
    engine.stop()


if __name__ == "__main__":
    main()
