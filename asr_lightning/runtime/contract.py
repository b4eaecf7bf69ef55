"""What a model offers in whichever runtime it is loaded, and the values that it gives back. Knows no runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""A recording: float32 ``[T]``, mono, within [-1, 1]."""


@dataclass(frozen=True)
class Word:
    """One word of a hypothesis.

    Attributes:
        text: The word as the model writes it, with its punctuation and without spaces around it.
        start: Its start, in seconds from the start of the clip.
        end: Its end, in seconds from the start of the clip.
        confidence: The probability that the model gives it, from 0 to 1; None if the runtime does not tell.
    """

    text: str
    start: float
    end: float
    confidence: float | None = None


@dataclass(frozen=True)
class Hypothesis:
    """What a model reads in one clip.

    Attributes:
        text: The text, stripped.
        words: The words with their times; empty if they were not asked for, or the runtime cannot tell them.
        confidence: Geometric mean of the probabilities of the tokens, from 0 to 1; None if the runtime does not tell.
    """

    text: str
    words: tuple[Word, ...] = ()
    confidence: float | None = None


@dataclass(frozen=True)
class Decoding:
    """How clips are decoded.

    Attributes:
        beam: Number of hypotheses that are followed; 1 is greedy. Runtimes without a beam search read greedily.
        native: Whether audio is fed as the makers of the model do (Whisper: the 30 s window) in place of the way that
            the model was specialized for. Families that know one way only ignore it.
        words: Whether words with their times are wanted, which may cost time.
    """

    beam: int = 1
    native: bool = False
    words: bool = False


GREEDY = Decoding()


class RuntimeModel(Protocol):
    """A model that is loaded in a runtime and reads clips.

    Attributes:
        sample_rate: Sample rate of the clips in Hz.
        min_seconds: Length of the shortest clip that it reads.
        max_seconds: Length of the longest clip that it reads at once; None is no limit.
        language: Code of the language that it reads, such as ``de``; None if it does not say.
    """

    sample_rate: int
    min_seconds: float
    max_seconds: float | None
    language: str | None

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Return what is said in each of ``clips``, in their order. The result for a clip depends on no other one."""
        ...
