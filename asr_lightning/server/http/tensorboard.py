"""TensorBoard as a process of its own: on loopback, behind a secret, alive no longer than the server."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

import httpx

from asr_lightning.server.http.problems import Problem

logger = logging.getLogger(__name__)

PAUSE_S = 5.0
TIMEOUT = httpx.Timeout(5.0, read=60.0)
PUBLIC_PORT = 6006
SECRET_HEADER = "x-asr-secret"
CHILD = "asr_lightning.server.http.tensorboard_child"


class TensorBoard:
    """Started when somebody first looks, and again after it died; reading event files all day would cost training.

    Args:
        logdir: Where runs are.
        log: File for its messages.
        public: Listen on all addresses, at the seed's port, without any auth.

    Attributes:
        secret: What each request must carry, so that neither other users of this machine nor a page in a browser here
            can read it past the server's token.
        port: Where it listens; 0 until it does.
    """

    def __init__(self, logdir: Path, log: Path, public: bool = False) -> None:
        self.logdir, self.log, self.public = logdir, log, public
        self.secret, self.port = secrets.token_hex(16), PUBLIC_PORT if public else 0
        self._child: subprocess.Popen[bytes] | None = None
        self.client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, verify=False)  # plain http, on this machine
        self._starting, self._last = asyncio.Lock(), -PAUSE_S

    async def ready(self) -> int:
        """The port of a running TensorBoard.

        Raises:
            Problem: It does not start.
        """
        async with self._starting:
            if self._child is None or self._child.poll() is not None:
                if time.monotonic() - self._last < PAUSE_S:
                    raise Problem("unavailable", "TensorBoard ended: it is started again in a few seconds")
                self._last = time.monotonic()
                await asyncio.to_thread(self.start)
        return self.port

    def start(self) -> None:
        """Start it; the port comes back on a pipe once it listens.

        Raises:
            Problem: It does not start.
        """
        reading, writing = os.pipe()
        environment = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
        environment |= {"ASR_TENSORBOARD_SECRET": "" if self.public else self.secret, "OMP_NUM_THREADS": "1"}
        options = [self.logdir.name, "0.0.0.0" if self.public else "127.0.0.1", str(self.port if self.public else 0)]
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            # Its standard input is a pipe that nobody writes to: it ends when this process does, even by kill -9.
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", CHILD, *options, str(writing)], cwd=self.logdir.parent, env=environment,
                stdin=subprocess.PIPE, stdout=descriptor, stderr=descriptor, pass_fds=(writing,),
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writing)
            os.close(descriptor)
        with os.fdopen(reading, "rb") as pipe:
            told = pipe.readline()  # empty when it died
        if not told.strip().isdigit():
            raise Problem("unavailable", "TensorBoard does not start: its log is tensorboard.log in the server's home")
        self.port = int(told)

    def stop(self) -> None:
        """End it."""
        child = self._child
        if child is None:
            return
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if child.stdin is not None:
            child.stdin.close()
        self._child = None
