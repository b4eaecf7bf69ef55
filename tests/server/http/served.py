"""Run the real ``serve`` command as a process, with or without a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from tests.server import driver


class Process:
    """A running server.

    Attributes:
        url: On loopback.
        said: What it wrote to standard error.
    """

    def __init__(self, home: Path, options: list[str], environment: dict[str, str], terminal: bool) -> None:
        reading, writing = pty.openpty() if terminal else os.pipe()
        call = [sys.executable, "-m", "asr_lightning", "serve", "--home", str(home), "--port", "0", *options]
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("ASR_", "SERVER_", "RUNPOD_"))}
        self.process = subprocess.Popen(call, stdout=writing, stderr=writing, env=clean | environment)
        os.close(writing)
        self.said, self._reading = "", reading
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        match = driver.wait(lambda: re.search(r"listening on http://\S+:(\d+)", self.said) or self.process.poll(), "it")
        assert isinstance(match, re.Match), self.said
        self.url = f"http://127.0.0.1:{match[1]}"

    def _listen(self) -> None:
        with contextlib.suppress(OSError):  # a terminal that nobody has open any more
            while piece := os.read(self._reading, 65_536):
                self.said += piece.decode(errors="replace")

    def end(self) -> None:
        """Stop it, whatever it does."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join(5)
        os.close(self._reading)


@contextlib.contextmanager
def serving(home: Path, *options: str, terminal: bool = False, **environment: str) -> Iterator[Process]:
    """A server process, which is ended afterwards."""
    process = Process(home, list(options), environment, terminal)
    try:
        yield process
    finally:
        process.end()


def ask(process: Process, path: str, token: str | None = None, method: str = "GET", **more: Any) -> httpx.Response:
    """An answer of ``process``."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with httpx.Client(trust_env=False, timeout=30) as client:
        return client.request(method, process.url + path, headers=headers, **more)
