"""The Wyoming protocol, by which Home Assistant asks for transcripts: events over TCP, and no tokens.

Source of the protocol: https://github.com/OHF-Voice/wyoming. Home Assistant opens a connection for each phrase, and
waits for a transcript or for the end of the connection, so an error ends it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable

import numpy as np
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioFormat, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import AsrModel, AsrProgram, Attribution, Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.server import AsyncEventHandler

from asr_lightning import __version__
from asr_lightning.data.sound import Sound
from asr_lightning.model_server.problems import Refusal
from asr_lightning.model_server.reader import BusyError, Order, Reader, UnreadableError
from asr_lightning.model_server.requests import require_language, require_model

logger = logging.getLogger(__name__)

PROGRAM = "asr_lightning"
HOME = "https://github.com/ktomanek/asr_specialization"
CONNECTIONS = 64
RATES, CHANNELS = range(4000, 192_001), range(1, 9)
WIDTHS = {2: "<i2", 4: "<i4"}
MIN_SECONDS = 0.1
"""A shorter phrase is a click: its transcript is empty."""


class WyomingError(Exception):
    """What a client sent cannot be used; the message says why."""


def info(reader: Reader) -> Info:
    """What this program offers: one model and its language."""
    attribution = Attribution(PROGRAM, HOME)
    model = AsrModel(
        name=reader.name,
        attribution=attribution,
        installed=True,
        description=reader.name,
        version=__version__,
        languages=[reader.language] if reader.language else [],
    )
    program = AsrProgram(
        name=PROGRAM,
        attribution=attribution,
        installed=True,
        description="Speech recognition with a specialized model",
        version=__version__,
        models=[model],
    )
    return Info(asr=[program])


class Phrase:
    """The sound of one phrase, as it arrives.

    Args:
        form: Rate, width and channels, which all pieces have.
        max_seconds: Largest length.

    Raises:
        WyomingError: Nothing can read such sound.
    """

    def __init__(self, form: AudioFormat, max_seconds: float) -> None:
        if form.rate not in RATES or form.channels not in CHANNELS or form.width not in WIDTHS:
            raise WyomingError(
                f"{form.rate} Hz, {form.channels} channels, {8 * form.width} bits cannot be read: send 16000 Hz, one "
                "channel, 16 bits"
            )
        self._form, self._content = (form.rate, form.width, form.channels), bytearray()
        self._max_bytes = int(max_seconds * form.rate) * form.width * form.channels

    def add(self, chunk: AudioChunk) -> None:
        """Append a piece.

        Raises:
            WyomingError: It has another form, or the phrase becomes too long.
        """
        if (chunk.rate, chunk.width, chunk.channels) != self._form:
            raise WyomingError("a piece of sound has another form than the first one")
        if len(self._content) + len(chunk.audio) > self._max_bytes:
            raise WyomingError("the phrase is too long")
        self._content += chunk.audio

    def sound(self) -> Sound:
        """The whole phrase, as one channel."""
        rate, width, channels = self._form
        whole = len(self._content) // (width * channels) * width * channels
        values = np.frombuffer(bytes(self._content[:whole]), WIDTHS[width]).reshape(-1, channels)
        samples = values.mean(axis=1, dtype=np.float64) / (1 << (8 * width - 1))
        return Sound(samples.astype(np.float32), rate)


class Handler(AsyncEventHandler):
    """One connection."""

    def __init__(self, stream: asyncio.StreamReader, writer: asyncio.StreamWriter, reader: Reader) -> None:
        super().__init__(stream, writer)
        self._model = reader
        self._phrase: Phrase | None = None

    async def handle_event(self, event: Event) -> bool:
        """Answer an event; False ends the connection."""
        try:
            await self._handle(event)
        except (WyomingError, Refusal, BusyError, UnreadableError) as error:
            code = "busy" if isinstance(error, BusyError) else "refused"
            await self.write_event(Error(str(error), code).event())
            return False
        return True

    async def _handle(self, event: Event) -> None:
        if Describe.is_type(event.type):
            await self.write_event(info(self._model).event())
        elif Ping.is_type(event.type):
            await self.write_event(Pong(text=Ping.from_event(event).text).event())
        elif Transcribe.is_type(event.type):
            asked = Transcribe.from_event(event)
            require_model(asked.name or self._model.name, self._model.name)
            require_language(asked.language or "", self._model.language)
        elif AudioStart.is_type(event.type):
            self._phrase = Phrase(AudioStart.from_event(event), self._model.max_seconds)
        elif AudioChunk.is_type(event.type):
            chunk = AudioChunk.from_event(event)
            self._phrase = self._phrase or Phrase(chunk, self._model.max_seconds)
            self._phrase.add(chunk)
        elif AudioStop.is_type(event.type):
            await self.write_event(Transcript(await self._text(), language=self._model.language).event())

    async def _text(self) -> str:
        phrase, self._phrase = self._phrase, None
        if phrase is None:
            raise WyomingError("audio-stop came before any sound")
        sound = phrase.sound()
        if sound.samples.size < MIN_SECONDS * sound.sample_rate:
            return ""
        return (await self._model.read(Order(sound, "the phrase"))).text


async def start(listener: socket.socket, reader: Reader) -> asyncio.Server:
    """Answer connections that come in on ``listener``."""
    return await asyncio.start_server(_connection(reader), sock=listener)


def _connection(reader: Reader) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    places = asyncio.Semaphore(CONNECTIONS)

    async def connected(stream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if places.locked():
            writer.close()
            return
        async with places:
            try:
                await Handler(stream, writer, reader).run()
            except (ConnectionError, asyncio.IncompleteReadError):
                pass  # the client has gone
            except (ValueError, KeyError, TypeError, AttributeError) as error:  # what the package makes of nonsense
                logger.warning("a Wyoming client sent what is no event: %s: %s", type(error).__name__, error)
            finally:
                writer.close()

    return connected
