"""Runs commands on a SkyPilot machine over ssh, which SkyPilot configures; files are read that way, without mounts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

SKY = Path(sys.executable).with_name("sky")
SECONDS = 120.0
"""Time limit of a short command."""
_OPTIONS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=20", "-o", "ServerAliveInterval=15")
_UNREACHABLE = 255


def configure(machine: str) -> None:
    """Have SkyPilot write the ssh settings of ``machine`` for this user; only its command line can do that.

    Raises:
        OSError: SkyPilot failed.
    """
    command = [str(SKY) if SKY.exists() else SKY.name, "status", machine]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as slow:
        raise TimeoutError(f"{' '.join(command)} did not answer in {SECONDS:.0f} s") from slow
    if result.returncode != 0:
        raise OSError(f"{' '.join(command)} failed: {result.stderr.strip()[-500:]}")


def output(machine: str, command: str, missing: int) -> bytes | None:
    """The output of ``command`` on ``machine``; None if its exit status is ``missing``.

    Raises:
        OSError: The command failed, or the machine cannot be reached.
    """
    try:
        result = subprocess.run(["ssh", *_OPTIONS, machine, command], capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as slow:
        raise TimeoutError(f"{machine} did not answer in {SECONDS:.0f} s") from slow
    if result.returncode == missing:
        return None
    _require_success(machine, result.returncode, result.stderr)
    return result.stdout


@contextmanager
def stream(machine: str, command: str) -> Iterator[IO[bytes]]:
    """The output of ``command`` on ``machine`` as a stream. The exit status is known only when this closes.

    Raises:
        OSError: The command failed, or the connection broke.
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
        errors = process.stderr.read()
    _require_success(machine, process.returncode, errors)


def _require_success(machine: str, status: int, errors: bytes) -> None:
    text = errors.decode(errors="replace").strip()[-500:]
    if status == _UNREACHABLE:
        raise ConnectionError(f"{machine} cannot be reached: {text}")
    if status != 0:
        raise OSError(f"{machine}: {text or f'exit status {status}'}")
