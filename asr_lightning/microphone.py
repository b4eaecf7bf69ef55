"""Where ``listen`` hears: a microphone through PortAudio, or a recording that is played as if it were one."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from asr_lightning.data import streams
from asr_lightning.errors import DataError, require_extra
from asr_lightning.runtime.contract import Samples

BLOCK_SECONDS = 0.032
"""Seconds that are taken from the microphone at once: what the voice activity detector judges."""
REMEDY = "connect one, name another with --microphone, or read a recording in its place: --source FILE"

logger = logging.getLogger(__name__)


class Recording:
    """A recording as a source: in real time, or as fast as it is read.

    Args:
        path: The recording.
        sample_rate: Sample rate in Hz of the samples that it gives out.
        is_fast: Whether it does not wait for the time at which a microphone would have heard a block.
    """

    def __init__(self, path: Path, sample_rate: int, is_fast: bool) -> None:
        self.path, self.sample_rate, self.is_fast = path, sample_rate, is_fast
        self._started: float | None = None

    def blocks(self) -> Iterator[Samples]:
        """Give out the samples.

        Raises:
            DataError: The recording cannot be decoded.
        """
        size, count = round(BLOCK_SECONDS * self.sample_rate), 0
        for block in _of_size(streams.blocks(self.path, self.sample_rate), size):
            if self._started is None:
                self._started = time.monotonic()
            count += len(block)
            if not self.is_fast:
                time.sleep(max(self._started + count / self.sample_rate - time.monotonic(), 0))
            yield block

    def lag(self, seconds: float) -> float | None:
        """Return how long ago the time ``seconds`` was heard; None if the recording is read fast."""
        return None if self.is_fast or self._started is None else time.monotonic() - self._started - seconds


class Microphone:
    """A microphone as a source.

    Args:
        sample_rate: Sample rate in Hz of the samples that it gives out.
        device: Number or part of the name of the microphone; None is the one that the system has chosen.

    Raises:
        MissingExtraError: The package sounddevice is not installed.
        DataError: The library PortAudio or a microphone is missing, or it cannot be opened.
    """

    def __init__(self, sample_rate: int, device: str | None = None) -> None:
        self.sample_rate = sample_rate
        self._sounddevice = library()
        self._device = int(device) if device and device.isdecimal() else device
        try:
            info = self._sounddevice.query_devices(self._device, kind="input")
        except (self._sounddevice.PortAudioError, ValueError) as error:
            raise DataError(f"there is no microphone here ({_first_line(error)}): {REMEDY}") from error
        self._own_rate = self._rate(round(info["default_samplerate"]))
        self._queue: queue.SimpleQueue[Samples | None] = queue.SimpleQueue()
        self._started = 0.0
        self._is_told = False

    def blocks(self) -> Iterator[Samples]:
        """Give out the samples as they are heard.

        Raises:
            DataError: The microphone cannot be opened, or was disconnected.
        """
        try:
            stream = self._sounddevice.InputStream(
                samplerate=self._own_rate,
                blocksize=round(BLOCK_SECONDS * self._own_rate),
                device=self._device,
                channels=1,
                dtype="float32",
                callback=self._heard,
                finished_callback=lambda: self._queue.put(None),
            )
        except self._sounddevice.PortAudioError as error:
            raise DataError(f"the microphone cannot be opened ({_first_line(error)}): {REMEDY}") from error
        with stream:
            self._started = time.monotonic()
            yield from streams.resampled(self._taken(), self._own_rate, self.sample_rate)

    def lag(self, seconds: float) -> float | None:
        """Return how long ago the time ``seconds`` was heard."""
        return time.monotonic() - self._started - seconds

    def _taken(self) -> Iterator[Samples]:
        while True:
            try:
                block = self._queue.get(timeout=1.0)
            except queue.Empty:
                yield np.zeros(0, np.float32)
                continue
            if block is None:
                raise DataError("the microphone was disconnected: connect it, and start again")
            yield block

    def _heard(self, samples: Any, frames: int, when: Any, status: Any) -> None:
        if status and not self._is_told:
            logger.warning("some sound was lost, since this computer is busy (%s)", status)
            self._is_told = True
        self._queue.put(samples[:, 0].copy())

    def _rate(self, standard: int) -> int:
        """The rate to open the microphone with: that of the model, or its own if it has no other."""
        try:
            self._sounddevice.check_input_settings(self._device, 1, "float32", samplerate=self.sample_rate)
        except self._sounddevice.PortAudioError:
            return standard
        return self.sample_rate


def library() -> Any:
    """Load the package sounddevice.

    Raises:
        MissingExtraError: It is not installed.
        DataError: The library PortAudio is missing.
    """
    require_extra("listen", "sounddevice", "the microphone")
    try:
        import sounddevice
    except OSError as error:  # the package is there, the library of the system is not
        raise DataError(
            "the microphone needs the library PortAudio, which is not installed here: apt install libportaudio2, dnf "
            "install portaudio or brew install portaudio; or read a recording in its place: --source FILE"
        ) from error
    return sounddevice


def _of_size(blocks: Iterable[Samples], size: int) -> Iterator[Samples]:
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        whole = len(rest) // size * size
        yield from (rest[start : start + size] for start in range(0, whole, size))
        rest = rest[whole:]
    if len(rest):
        yield rest


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
