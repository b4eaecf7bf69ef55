"""A model server in this process, on a free port, and a model whose texts tell how long the clips were."""

from __future__ import annotations

import socket
import threading
import wave
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from asr_lightning.data import audio
from asr_lightning.model_server.app import create_app
from asr_lightning.model_server.reader import Reader
from asr_lightning.model_server.run import Server
from asr_lightning.model_server.settings import Settings
from asr_lightning.recognizer import Recognizer
from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis, Samples, Word

RATE = 16_000
CLIPS = sorted((Path(__file__).parents[2] / "examples" / "german_accent" / "clips").glob("*.ogg"))
OPEN = Settings(hosts=frozenset({"127.0.0.1"}), token=None)


class Clock:
    """A model in the place of one that listens: it says how long a clip is. ``gate`` lets it read.

    Attributes:
        busy: Number of calls at this moment.
        most: Largest number of calls at once.
        read: Lengths of all clips that were read, in seconds.
    """

    sample_rate = RATE
    min_seconds = 0.1
    max_seconds: float | None = 30.0
    language: str | None = "en"

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.busy, self.most, self.read = 0, 0, list[float]()

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        """Say how long each clip is."""
        self.busy += 1
        self.most = max(self.most, self.busy)
        assert self.gate.wait(60)
        self.busy -= 1
        self.read += [len(clip) / RATE for clip in clips]
        return [self._hypothesis(len(clip) / RATE, decoding) for clip in clips]

    def _hypothesis(self, seconds: float, decoding: Decoding) -> Hypothesis:
        words = (Word("heard", 0.1, 0.4, 0.9), Word(f"{seconds:.2f}", 0.5, 0.8, 0.7))
        return Hypothesis(f"heard {seconds:.2f}", words if decoding.words else (), 0.8)


def reader_of(model: Clock, **options: float) -> Reader:
    """A reader for ``model``, which clients call ``mine``."""
    return Reader(Recognizer(model), "mine", model.language, **options)  # type: ignore[arg-type]


@contextmanager
def served(reader: Reader, settings: Settings = OPEN) -> Iterator[str]:
    """The address of a server for ``reader``, with uvicorn and sockets as in ``serve-model``."""
    ready = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(create_app(reader, settings), ready.set)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert ready.wait(30)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            reader.close()


def write_wav(path: Path, samples: Samples, rate: int = RATE) -> Path:
    """Write ``samples`` as 16-bit WAV."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(audio.to_pcm16(samples).tobytes())
    return path


def phrases(count: int, pause_s: float = 2.5) -> Samples:
    """``count`` spoken phrases with silence around each."""
    pause = np.zeros(int(pause_s * RATE), np.float32)
    parts = [pause]
    for clip in CLIPS[:count]:
        parts += [audio.load(clip, RATE), pause]
    return np.concatenate(parts)
