"""Decode recordings to 16 kHz mono WAV in separate processes, which may crash, hang or lie about a hostile file."""

from __future__ import annotations

import errno
import json
import math
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType

import asr_lightning
from asr_lightning.data.sound import Measures
from asr_lightning.job_folder.worker import JOB
from asr_lightning.server.intake.limits import RATE, IntakeLimits
from asr_lightning.server.intake.verdict import IntakeError

START_SECONDS = 60.0  # importing the decoders on a busy machine
HEADER = 44  # bytes of the WAV header
MAX_ANSWER = 4096  # bytes
PROGRAM = (sys.executable, "-P", "-m", "asr_lightning.server.intake.decoder")


@dataclass(frozen=True)
class Sound:
    """A decoded recording.

    Attributes:
        frames: Number of samples at 16 kHz.
        measures: Measures of the original recording.
    """

    frames: int
    measures: Measures

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / RATE


@dataclass(frozen=True)
class Refused:
    """A recording that cannot be used.

    Attributes:
        code: Code of the issue: "D06" if the recording is too long, else "D03".
        cause: The cause, for the message.
    """

    code: str
    cause: str


class CrashedError(Exception):
    """The decoder ended or hung instead of answering."""


class Decoders:
    """Runs one decoder process after the other. As a context manager, it leaves none behind.

    Args:
        cwd: An empty folder, in which the processes run.
        limits: Limits of memory, time and length.
        program: Command line of the decoder.
    """

    def __init__(self, cwd: Path, limits: IntakeLimits, program: Sequence[str] = PROGRAM) -> None:
        self._cwd, self._limits, self._program = cwd, limits, tuple(program)
        self._process: subprocess.Popen | None = None
        self._socket: socket.socket | None = None
        self._served = 0
        self._crashes = 0
        self._until = time.monotonic() + limits.all_decode_seconds

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop()

    def decode(self, source: int, target: int) -> Sound | Refused:
        """Decode one recording.

        Args:
            source: Descriptor of the recording.
            target: Descriptor of an empty file, which becomes a WAV file. After a refusal its content is undefined.

        Raises:
            IntakeError: The upload takes too long to decode, or crashes the decoder too often.
            OSError: The disk is full.
        """
        # An earlier file may have caused a crash: this one is then tried once more, in a new process.
        for _ in range(2 if self._served else 1):
            if time.monotonic() > self._until:
                raise IntakeError("too_large", "data takes too long to decode; send fewer recordings")
            os.lseek(source, 0, os.SEEK_SET)  # the offset is shared with a decoder that may have read the file before
            os.ftruncate(target, 0)
            os.lseek(target, HEADER, os.SEEK_SET)
            try:
                answer = self._ask(source, target)
            except CrashedError as error:
                self._stop()
                cause = str(error)
                continue
            return self._judge(answer, target)
        self._crashes += 1
        if self._crashes > self._limits.crashes:
            raise IntakeError(
                "dataset_invalid", f"over {self._limits.crashes} recordings crash the decoder; check them"
            )
        return Refused("D03", cause)

    def _ask(self, source: int, target: int) -> object:
        if self._served >= self._limits.clips_per_decoder:
            self._stop()
        if self._process is None:
            self._start()
        assert self._socket is not None
        self._socket.settimeout(self._limits.decode_seconds)
        self._served += 1
        return self._exchange(lambda link: socket.send_fds(link, [b"{}"], [source, target]))

    def _exchange(self, send: Callable[[socket.socket], object]) -> object:
        """Send one message, and return the JSON of the one line that comes back."""
        assert self._socket is not None
        line = b""
        try:
            send(self._socket)
            while not line.endswith(b"\n"):
                piece = self._socket.recv(MAX_ANSWER)
                line += piece
                if not piece or len(line) > MAX_ANSWER:
                    raise CrashedError("it crashes the decoder")
            return json.loads(line)
        except TimeoutError as error:
            raise CrashedError("the decoder does not come to an end with it") from error
        except (OSError, ValueError, RecursionError) as error:
            raise CrashedError("it crashes the decoder") from error

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        limits = self._limits
        with theirs:
            self._process = subprocess.Popen(
                self._program,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self._cwd,
                env=_environment(),
            )
        self._socket, self._served = ours, 0
        ours.settimeout(START_SECONDS)
        settings = {
            "memory_bytes": limits.decoder_bytes,
            "file_bytes": HEADER + 2 * math.ceil(limits.clip_seconds * RATE) + 4096,
            "decode_seconds": limits.decode_seconds,
            "clip_samples": limits.clip_samples,
            "clip_seconds": limits.clip_seconds,
        }
        try:
            self._exchange(lambda link: link.sendall(json.dumps(settings).encode()))
        except CrashedError as error:  # no recording was sent yet, so that none can be the cause
            self._stop()
            raise RuntimeError("the decoder process does not start: " + " ".join(self._program)) from error

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._socket = None
        self._served = 0

    def _judge(self, answer: object, target: int) -> Sound | Refused:
        """What an answer means. It is compared with the written file, since a hostile file may control the decoder."""
        limits = self._limits
        if not isinstance(answer, dict):
            return Refused("D03", "it confuses the decoder")
        if "full" in answer:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if "long" in answer:
            return Refused("D06", f"it is longer than {limits.clip_seconds:g} s")
        if "bad" in answer:
            return Refused("D03", str(answer["bad"]))
        measures = {field.name: answer.get(field.name, math.nan) for field in fields(Measures)}
        size = os.fstat(target).st_size - HEADER
        valid = all(isinstance(value, int | float) and math.isfinite(value) for value in measures.values())
        valid = valid and 0 < size <= 2 * (limits.clip_seconds + 1) * RATE
        if not valid or size != 2 * answer.get("frames", -1):
            return Refused("D03", "it confuses the decoder")
        os.pwrite(target, wav_header(size), 0)
        return Sound(size // 2, Measures(**measures))


def _environment() -> dict[str, str]:
    """The environment of a decoder. Of the server's variables it gets only the job's id, by which it can be found."""
    variables = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(Path(asr_lightning.__file__).parents[1]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "C.UTF-8",
    }
    return {**variables, JOB: os.environ[JOB]} if JOB in os.environ else variables


def wav_header(size: int) -> bytes:
    """The header of a 16 kHz mono 16-bit WAV file with ``size`` bytes of samples."""
    form = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", size + 36, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    return form + struct.pack("<4sI", b"data", size)
