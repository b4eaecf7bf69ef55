"""Reads what is being said while it is said: each phrase as soon as the pause after it was heard. Loads no torch.

A phrase is read early, when its pause has only begun, and its text is kept back until the pause is long enough to end
it; if the speech goes on, the text is thrown away. So the text is there when the phrase ends, and not a reading later.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np

from asr_lightning.runtime import long_form, segments
from asr_lightning.runtime.contract import Decoding, Hypothesis, RuntimeModel, Samples
from asr_lightning.runtime.segments import Segment
from asr_lightning.runtime.voice_activity import Pauses, Phrase, PhraseCutter

PAUSE = 0.25
"""Seconds of the pause that ends a phrase, so that its text is there 0.3 s after its end."""
EARLY = 0.13
"""Seconds of a pause after which the phrase before it is read."""


class Source(Protocol):
    """Where the sound comes from."""

    def blocks(self) -> Iterator[Samples]:
        """Give out the samples ``[T]`` as they are heard, at the sample rate of the model; a block may be empty."""
        ...

    def lag(self, seconds: float) -> float | None:
        """Return how long ago the time ``seconds`` of the stream was heard; None if it has no clock."""
        ...


class Heard(NamedTuple):
    """A phrase that was read.

    Attributes:
        segment: Its text, and its times in the stream.
        latency: Seconds from the end of its speech to its text; for a source without a clock those of the reading.
    """

    segment: Segment
    latency: float


class _Reading(NamedTuple):
    phrase: Phrase
    found: Future[tuple[Hypothesis, float]]

    def is_of(self, phrase: Phrase) -> bool:
        return (self.phrase.start, self.phrase.speech_end) == (phrase.start, phrase.speech_end)


class Cutter(Protocol):
    """Finds the phrases in a stream."""

    def feed(self, samples: Samples) -> Iterator[Phrase]:
        """Take the next samples, and give out the phrases that end in them."""
        ...

    def finish(self) -> Iterator[Phrase]:
        """Give out what the end of the stream has cut off."""
        ...


class KeyCutter:
    """Push to talk: a phrase is what is heard while a key is down. One that becomes too long is cut there.

    Args:
        sample_rate: Sample rate in Hz.
        longest: Length of the longest phrase in seconds.
        is_down: Whether the key is down now.
    """

    def __init__(self, sample_rate: int, longest: float, is_down: Callable[[], bool]) -> None:
        self.sample_rate, self.longest, self.is_down = sample_rate, longest, is_down
        self._held: list[Samples] = []
        self._count = 0

    def feed(self, samples: Samples) -> Iterator[Phrase]:
        """Take the next samples, and give out the phrase that the key has ended."""
        self._count += len(samples)
        is_down = self.is_down()
        if is_down:
            self._held.append(samples)
        if not is_down or sum(map(len, self._held)) > self.longest * self.sample_rate:
            yield from self.finish()

    def finish(self) -> Iterator[Phrase]:
        """Give out what was said until now."""
        if self._held:
            samples = np.concatenate(self._held)
            self._held = []
            start, end = ((self._count - back) / self.sample_rate for back in (len(samples), 0))
            yield Phrase(samples, start, start, end)


class Listener:
    """Reads the phrases of a source.

    Args:
        model: The model.
        decoding: How phrases are decoded.
        cutter: Finds the phrases, those early too whose pause has only begun.
        hear: Called with each phrase that holds text, in their order.
    """

    def __init__(self, model: RuntimeModel, decoding: Decoding, cutter: Cutter, hear: Callable[[Heard], None]) -> None:
        self.model, self.decoding, self.cutter, self.hear = model, decoding, cutter, hear
        self._is_stopped = False
        self._early: _Reading | None = None
        self._ended: deque[_Reading] = deque()

    def stop(self) -> None:
        """End the stream after the block that is being heard; what was said until then is read."""
        self._is_stopped = True

    def listen(self, source: Source) -> None:
        """Read the phrases of ``source`` up to its end, or until ``stop`` is called."""
        with ThreadPoolExecutor(1) as pool:
            # A runtime's first reading takes several times as long, so it is done before anybody speaks.
            self.model.transcribe([np.zeros(self.model.sample_rate, np.float32)], self.decoding)
            for block in source.blocks():
                for phrase in self.cutter.feed(block):
                    self._take(phrase, pool)
                self._tell(source, wait=source.lag(0.0) is None)
                if self._is_stopped:
                    break
            for phrase in self.cutter.finish():
                self._take(phrase, pool)
            self._tell(source, wait=True)

    def _take(self, phrase: Phrase, pool: ThreadPoolExecutor) -> None:
        """Read a phrase, unless it has been read early."""
        if not phrase.is_final:
            self._early = _Reading(phrase, pool.submit(self._read, phrase))
            return
        early, self._early = self._early, None
        is_read = early is not None and early.is_of(phrase)
        self._ended.append(early if early and is_read else _Reading(phrase, pool.submit(self._read, phrase)))

    def _read(self, phrase: Phrase) -> tuple[Hypothesis, float]:
        started = time.monotonic()
        samples = long_form.padded(phrase.samples, self.model)
        return self.model.transcribe([samples], self.decoding)[0], time.monotonic() - started

    def _tell(self, source: Source, wait: bool) -> None:
        """Tell the texts that are there, in their order; with ``wait`` those too that are being read."""
        while self._ended and (wait or self._ended[0].found.done()):
            phrase, found = self._ended.popleft()
            hypothesis, taken = found.result()
            lag = source.lag(phrase.speech_end)
            if hypothesis.text:
                segment = segments.of(hypothesis, phrase.start, phrase.speech_start, phrase.speech_end)
                self.hear(Heard(segment, taken if lag is None else lag))


def cutter_for(model: RuntimeModel, pause: float, is_down: Callable[[], bool] | None = None) -> Cutter:
    """Make what finds the phrases for ``model``.

    Args:
        model: The model.
        pause: Seconds of the pause that ends a phrase.
        is_down: Whether the key of push to talk is down now; None finds phrases by voice activity.
    """
    longest = long_form.pauses_of(model).longest
    if is_down is not None:
        return KeyCutter(model.sample_rate, longest, is_down)
    pauses = Pauses(pause=pause, after=min(EARLY, pause), longest=longest)
    return PhraseCutter(model.sample_rate, pauses, early=True)
