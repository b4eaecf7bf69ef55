"""Reads recordings with one model, one at a time, for all clients. Knows no protocol."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from asr_lightning.data import audio, streams
from asr_lightning.data.audio import AudioError
from asr_lightning.data.sound import Sound, findings, measure
from asr_lightning.recognizer import Recognizer, Transcription
from asr_lightning.runtime.segments import Segment

logger = logging.getLogger(__name__)

MAX_RETRY_S = 60


class BusyError(Exception):
    """As many recordings wait as may.

    Attributes:
        retry_s: Seconds after which another try may succeed.
    """

    def __init__(self, waiting: int, retry_s: int) -> None:
        super().__init__(f"{waiting} recordings wait for this model: try again in {retry_s} s")
        self.retry_s = retry_s


class UnreadableError(ValueError):
    """A recording cannot be read; the message says why.

    Attributes:
        code: What is wrong, for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class GoneError(Exception):
    """Whoever asked has gone."""


class Order:
    """One recording to read.

    Args:
        recording: The recording: a file, or samples with their rate.
        name: What messages call it.
        words: Whether words with their times are wanted.
        found: Called with each segment as soon as it was read, from another thread.
    """

    def __init__(
        self,
        recording: Path | Sound,
        name: str,
        words: bool = False,
        found: Callable[[Segment], None] = lambda segment: None,
    ) -> None:
        self.recording, self.name, self.words, self.found = recording, name, words, found
        self._gone = threading.Event()

    def cancel(self) -> None:
        """Stop reading as soon as possible."""
        self._gone.set()

    def go_on(self) -> None:
        """Do nothing.

        Raises:
            GoneError: The order was cancelled.
        """
        if self._gone.is_set():
            raise GoneError


class Reader:
    """A model with a thread of its own, and a queue in front of it.

    Args:
        recognizer: The loaded model.
        name: Name of the model for clients.
        language: Code of the language that it reads; None if nobody knows.
        queue: Largest number of recordings that wait.
        max_seconds: Longest recording that is read.

    Attributes:
        created: When the model was loaded, in seconds since 1970.
        pending: Number of recordings that are read or wait.
    """

    def __init__(
        self, recognizer: Recognizer, name: str, language: str | None, queue: int = 8, max_seconds: float = 7200
    ) -> None:
        self.name, self.language, self.queue, self.max_seconds = name, language, queue, max_seconds
        self.created = int(time.time())
        self._recognizer = recognizer
        with_words = replace(recognizer.decoding, words=True)
        self._with_words = Recognizer(recognizer.model, batch_size=recognizer.batch_size, decoding=with_words)
        self._pool = ThreadPoolExecutor(1, "reader")
        self.pending, self._last_s = 0, 1.0

    def close(self) -> None:
        """Read nothing more."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def read(self, order: Order) -> Transcription:
        """Read a recording when its turn has come. If the caller is cancelled, it is not read to its end.

        Raises:
            BusyError: Too many recordings wait.
            UnreadableError: It cannot be read.
        """
        if self.pending > self.queue:
            raise BusyError(self.pending - 1, max(1, min(MAX_RETRY_S, round(self._last_s * self.pending))))
        self.pending += 1
        loop, job = asyncio.get_running_loop(), self._pool.submit(self._read, order)
        job.add_done_callback(lambda _: loop.call_soon_threadsafe(self._done))
        try:
            return await asyncio.shield(asyncio.wrap_future(job))
        except asyncio.CancelledError:
            order.cancel()
            job.cancel()  # which frees its place, if it was not being read yet
            raise

    def _done(self) -> None:
        self.pending -= 1

    def _read(self, order: Order) -> Transcription:
        order.go_on()
        started = time.monotonic()
        try:
            return self._transcription(order)
        except AudioError as error:
            if _is_silent(order.recording):
                return Transcription("", _seconds(order.recording), (), self.language)
            raise UnreadableError("invalid_audio", f"{order.name}: {error.cause}") from error
        except UnreadableError:
            raise
        except ValueError as error:
            text = str(error).replace(str(order.recording), order.name) if isinstance(order.recording, Path) else error
            raise UnreadableError("invalid_audio", str(text)) from error
        finally:
            self._last_s = time.monotonic() - started

    def _transcription(self, order: Order) -> Transcription:
        recognizer = self._with_words if order.words else self._recognizer
        sound = order.recording
        if isinstance(sound, Sound):
            if _is_silent(sound):
                return Transcription("", _seconds(sound), (), self.language)
            clip = recognizer.clip(sound.samples, sound.sample_rate, order.name)
        else:
            clip = recognizer.clip(sound)
        heard = self._limit(order)
        heard(clip.seconds)
        if recognizer.is_long(clip):
            segments = []
            for segment in recognizer.segments(clip, heard):
                order.go_on()
                order.found(segment)
                segments.append(segment)
            read = recognizer.transcription(clip, segments)
        else:
            read = recognizer.read([clip])[0]
            for segment in read.segments:
                order.found(segment)
        return replace(read, language=read.language or self.language)

    def _limit(self, order: Order) -> Callable[[float], None]:
        def heard(seconds: float) -> None:
            order.go_on()
            if seconds > self.max_seconds:
                raise UnreadableError(
                    "audio_too_long", f"{order.name}: at most {self.max_seconds:g} s are read: cut it"
                )

        return heard


def _is_silent(recording: Path | Sound) -> bool:
    """Whether a recording can be decoded, and holds nothing but silence."""
    try:
        sound = audio.read(recording, streams.WHOLE) if isinstance(recording, Path) else recording
    except AudioError:
        return False
    return not sound.samples.size or any(finding.kind.is_refused for finding in findings(measure(sound)))


def _seconds(recording: Path | Sound) -> float:
    sound = audio.read(recording) if isinstance(recording, Path) else recording
    return float(sound.samples.size / sound.sample_rate)
