"""Files of a machine of SkyPilot, over the ssh that SkyPilot configures: one command for each, and nothing mounted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SKY = Path(sys.executable).with_name("sky")
SECONDS = 120.0
"""For one short command."""
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15")
_UNREACHABLE = 255


def configure(machine: str) -> None:
    """Have SkyPilot write the ssh settings of ``machine`` for this user; only its command line does that.

    Raises:
        OSError: It could not.
    """
    command = [str(SKY) if SKY.exists() else SKY.name, "status", machine]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as slow:
        raise TimeoutError(f"{' '.join(command)} did not answer in {SECONDS:.0f} s") from slow
    if result.returncode != 0:
        raise OSError(f"{' '.join(command)} failed: {result.stderr.strip()[-500:]}")


def output(machine: str, command: str, missing: int) -> bytes | None:
    """What ``command`` prints on ``machine``; None when it exits with ``missing``.

    Raises:
        OSError: It failed, or the machine cannot be reached.
    """
    try:
        result = subprocess.run(["ssh", *_OPTIONS, machine, command], capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as slow:
        raise TimeoutError(f"{machine} did not answer in {SECONDS:.0f} s") from slow
    if result.returncode == missing:
        return None
    _check(machine, result.returncode, result.stderr)
    return result.stdout


@contextmanager
def stream(machine: str, command: str) -> Iterator[IO[bytes]]:
    """What ``command`` prints on ``machine``, as it comes; checked at the end.

    Raises:
        OSError: It failed, or the connection broke.
    """
    process = subprocess.Popen(
        ["ssh", *_OPTIONS, machine, command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    assert process.stdout is not None and process.stderr is not None
    with process:
        try:
            yield process.stdout
        except BaseException:
            process.kill()
            raise
        complaint = process.stderr.read()
    _check(machine, process.returncode, complaint)


def _check(machine: str, status: int, complaint: bytes) -> None:
    text = complaint.decode(errors="replace").strip()[-500:]
    if status == _UNREACHABLE:
        raise ConnectionError(f"{machine} cannot be reached: {text}")
    if status != 0:
        raise OSError(f"{machine}: {text or f'exit status {status}'}")
