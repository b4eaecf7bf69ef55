"""TensorBoard in a process of its own, which listens on loopback, demands a secret, and ends with the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import httpx

from asr_lightning.server.http.problems import Problem

logger = logging.getLogger(__name__)

PAUSE_S = 5.0
TIMEOUT = httpx.Timeout(5.0, read=60.0)
PUBLIC_PORT = 6006
NAMES = 4
"""Each process for one name takes some 150 MB."""
SECRET_HEADER = "x-asr-secret"
PURPOSE = "tensorboard"
"""What a signed path to it is signed for."""
CHILD = "asr_lightning.server.http.tensorboard_child"


class TensorBoard:
    """Starts TensorBoard at the first request, and again if it died. Always running, it would slow down training.

    Args:
        logdir: The folder of the runs.
        log: File for the messages of TensorBoard.
        public: Whether it listens on all addresses, at its usual port, without a token.

    Attributes:
        secret: A text that each request must hold, so that neither other users of this machine nor a page in a local
            browser can avoid the server's token.
        port: The port at which it listens; 0 before it does.
    """

    def __init__(self, logdir: Path, log: Path, public: bool = False) -> None:
        self.logdir, self.log, self.public = logdir, log, public
        self.secret, self.port = secrets.token_hex(16), PUBLIC_PORT if public else 0
        self._child: subprocess.Popen[bytes] | None = None
        self.client = httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, verify=False)  # plain http, on this machine
        self._starting, self._last = asyncio.Lock(), -PAUSE_S
        self._of_names: OrderedDict[str, TensorBoard] = OrderedDict()

    async def of(self, name: str, runs: list[str]) -> TensorBoard:
        """A TensorBoard that shows only ``runs``, the folders in this one's that belong to ``name``.

        It is a process of its own, since TensorBoard shows everybody all that it finds. Only a few run at a time.
        """
        board = self._of_names.pop(name, None)
        if board is None:
            folder = self.logdir.parent / "tensorboard" / name
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            board = TensorBoard(folder / self.logdir.name, folder / "tensorboard.log")
        self._of_names[name] = board
        await asyncio.to_thread(_link, board.logdir, self.logdir, runs)
        while len(self._of_names) > NAMES:
            _, oldest = self._of_names.popitem(last=False)
            await asyncio.to_thread(oldest.stop)
        return board

    async def ready(self) -> int:
        """The port of a running TensorBoard.

        Raises:
            Problem: TensorBoard does not start.
        """
        async with self._starting:
            if self._child is None or self._child.poll() is not None:
                if time.monotonic() - self._last < PAUSE_S:
                    raise Problem("unavailable", "TensorBoard ended: it is started again in a few seconds")
                self._last = time.monotonic()
                await asyncio.to_thread(self.start)
        return self.port

    def start(self) -> None:
        """Start TensorBoard, and wait until it reports its port.

        Raises:
            Problem: TensorBoard does not start.
        """
        reading, writing = os.pipe()
        environment = {key: os.environ[key] for key in ("PATH", "HOME", "LANG", "TMPDIR") if key in os.environ}
        environment |= {"ASR_TENSORBOARD_SECRET": "" if self.public else self.secret, "OMP_NUM_THREADS": "1"}
        options = [self.logdir.name, "0.0.0.0" if self.public else "127.0.0.1", str(self.port if self.public else 0)]
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            # Its standard input is a pipe that nobody writes to, and that ends with this process, even by kill -9.
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", CHILD, *options, str(writing)], cwd=self.logdir.parent, env=environment,
                stdin=subprocess.PIPE, stdout=descriptor, stderr=descriptor, pass_fds=(writing,),
                start_new_session=True,
            )  # fmt: skip
        finally:
            os.close(writing)
            os.close(descriptor)
        with os.fdopen(reading, "rb") as pipe:
            line = pipe.readline()  # empty if the process died
        if not line.strip().isdigit():
            raise Problem("unavailable", "TensorBoard does not start: its log is tensorboard.log in the server's home")
        self.port = int(line)

    def stop(self) -> None:
        """End TensorBoard."""
        for board in self._of_names.values():
            board.stop()
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


def _link(logdir: Path, source: Path, runs: list[str]) -> None:
    """Make ``logdir`` hold links to the folders ``runs`` of ``source``, and nothing else."""
    logdir.mkdir(exist_ok=True, mode=0o700)
    present = {path.name for path in logdir.iterdir()}
    for name in present - {*runs}:
        (logdir / name).unlink(missing_ok=True)
    for name in {*runs} - present:
        with contextlib.suppress(FileExistsError):  # by another request
            (logdir / name).symlink_to(os.path.relpath(source / name, logdir))  # a copy of the home shows its own
