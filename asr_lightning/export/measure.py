"""Reads clips with a model in a process of its own: its texts, its time for each clip and its memory.

Loads no torch itself. ``export`` compares the texts with those of torch, and ``bench-device`` shows the times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from asr_lightning import recognizer
from asr_lightning.data import audio
from asr_lightning.export import child
from asr_lightning.runtime.contract import Decoding
from asr_lightning.scoring.edits import Transcript, score
from asr_lightning.scoring.text import Normalizer
from asr_lightning.training.memory import peak_mb

SECONDS = 1800.0


class Clip(NamedTuple):
    """A recording and what is said in it."""

    uid: str
    path: Path
    text: str


@dataclass(frozen=True)
class Reading:
    """What one model has read in some clips, one after another.

    Attributes:
        texts: The text of each clip, by its uid.
        wall_ms: Time for each clip in milliseconds, in their order; the first clip was read once before.
        cpu_ms: Time of all threads of the process together, for each clip.
        audio_seconds: Length of all clips together.
        load_seconds: Time until the model was loaded.
        peak_memory_mb: Peak memory of the process.
    """

    texts: Mapping[str, str]
    wall_ms: Sequence[float]
    cpu_ms: Sequence[float]
    audio_seconds: float
    load_seconds: float
    peak_memory_mb: float

    def transcripts(self, clips: Sequence[Clip]) -> list[Transcript]:
        """The texts of ``clips`` beside what is said in them."""
        return [Transcript(clip.uid, clip.text, self.texts[clip.uid]) for clip in clips]

    def wer(self, clips: Sequence[Clip], normalize: Normalizer) -> float:
        """Corpus WER, as a fraction."""
        return score(self.transcripts(clips), normalize).wer

    @property
    def median_ms(self) -> float:
        """Median time for a clip in milliseconds."""
        return statistics.median(self.wall_ms)

    @property
    def p95_ms(self) -> float:
        """95th percentile of the time for a clip in milliseconds."""
        ordered = sorted(self.wall_ms)
        return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]

    @property
    def mean_cpu_ms(self) -> float:
        """Mean CPU time for a clip in milliseconds."""
        return statistics.fmean(self.cpu_ms)


def measure(
    model: str | Path,
    clips: Sequence[Clip],
    decoding: Decoding = Decoding(),  # noqa: B008 - frozen
    threads: int = 1,
    seconds: float = SECONDS,
) -> Reading:
    """Read ``clips`` with ``model`` in a process of its own.

    Args:
        model: A folder that ``export`` wrote; or a saved model folder or the name of a model, which torch reads.
        clips: Recordings, at least one.
        decoding: How they are decoded.
        threads: Number of threads.
        seconds: Time limit in seconds.

    Raises:
        ChildError: The process ended without a result.
        ValueError: The model or a recording cannot be read.
    """
    request = {
        "model": str(model),
        "clips": [[clip.uid, str(clip.path)] for clip in clips],
        "decoding": asdict(decoding),
        "threads": threads,
    }
    return Reading(**child.call("asr_lightning.export.measure:read", request, seconds, threads))


def read(request: Mapping[str, Any]) -> dict[str, object]:
    """Read the clips of ``request`` in this process; returns a ``Reading`` as JSON."""
    started = time.monotonic()
    transcribe, sample_rate = _load(request["model"], request["threads"], Decoding(**request["decoding"]))
    load_seconds = time.monotonic() - started
    recordings = [(uid, audio.load(path, sample_rate)) for uid, path in request["clips"]]
    transcribe(recordings[0][1])  # libraries finish loading with the first clip
    texts, wall, cpu = {}, [], []
    for uid, samples in recordings:
        before = time.perf_counter(), time.process_time()
        texts[uid] = transcribe(samples)
        wall.append((time.perf_counter() - before[0]) * 1000)
        cpu.append((time.process_time() - before[1]) * 1000)
    audio_seconds = sum(len(samples) for _, samples in recordings) / sample_rate
    return asdict(Reading(texts, wall, cpu, audio_seconds, load_seconds, peak_mb()))


def _load(model: str, threads: int, decoding: Decoding) -> tuple[Callable[[audio.Samples], str], int]:
    """A function that reads a clip with ``model``, and its sample rate."""
    loaded = recognizer.load(model, device="cpu", native=decoding.native, batch_size=1, threads=threads).model
    return lambda samples: loaded.transcribe([samples], decoding)[0].text, loaded.sample_rate
