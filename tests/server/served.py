"""Starts and kills server processes for tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Served:
    """A server process on a home; after ``kill`` it can be started again on the same port.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, home: Path, token: str | None = None) -> None:
        self.home, self.port = home, 0
        self._environment = {**os.environ, **({"ASR_SERVER_TOKEN": token} if token else {})}
        self.start()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait(timeout=30)
        self._process.stderr.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start, and wait until it listens."""
        call = [sys.executable, "-m", "tests.server.serve_process", str(self.home), str(self.port)]
        self._process = subprocess.Popen(call, cwd=ROOT, env=self._environment, stderr=subprocess.PIPE, text=True)
        said = []
        for line in self._process.stderr:
            said.append(line)
            if match := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                self.port = int(match[1])
                return
        raise AssertionError(f"the server did not start: {''.join(said)}")

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait(timeout=30)
        self._process.stderr.close()
