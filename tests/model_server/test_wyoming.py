"""The Wyoming protocol, asked by the real ``wyoming`` client as Home Assistant does."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from asr_lightning.data import audio
from asr_lightning.model_server import wyoming_server
from asr_lightning.model_server.reader import Reader
from tests.model_server.serving import CLIPS, RATE, Clock, reader_of

CHUNK = 1024


@asynccontextmanager
async def listening(reader: Reader) -> AsyncIterator[Callable[[], AsyncTcpClient]]:
    """Makes clients of a server for ``reader``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server = await wyoming_server.start(listener, reader)
        try:
            yield lambda: AsyncTcpClient("127.0.0.1", port, read_timeout=30)
        finally:
            server.close()
            reader.close()


def tried(test: Callable[[Callable[[], AsyncTcpClient]], Awaitable[None]], **options: float) -> Clock:
    """Run ``test`` with clients of a server; returns the server's model."""
    model = Clock()

    async def run() -> None:
        async with listening(reader_of(model, **options)) as client:
            await test(client)

    asyncio.run(run())
    return model


async def spoken(client: AsyncTcpClient, samples: audio.Samples, language: str | None = "en") -> Event | None:
    """The answer to a phrase that is sent as Home Assistant sends it."""
    await client.write_event(Transcribe(language=language).event())
    form = {"rate": RATE, "width": 2, "channels": 1}
    await client.write_event(AudioStart(**form).event())
    content = audio.to_pcm16(samples).tobytes()
    for start in range(0, len(content), CHUNK):
        await client.write_event(AudioChunk(**form, audio=content[start : start + CHUNK]).event())
    await client.write_event(AudioStop().event())
    return await client.read_event()


def text(event: Event | None) -> str:
    assert event is not None and Transcript.is_type(event.type), event
    return Transcript.from_event(event).text


def refusal(event: Event | None) -> str:
    assert event is not None and Error.is_type(event.type), event
    return Error.from_event(event).text


def test_it_describes_itself() -> None:
    async def ask(client: Callable[[], AsyncTcpClient]) -> None:
        async with client() as one:
            await one.write_event(Describe().event())
            answer = await one.read_event()
            assert answer is not None
            (program,) = Info.from_event(answer).asr
            assert program.installed and [model.name for model in program.models] == ["mine"]
            assert program.models[0].languages == ["en"]
            await one.write_event(Ping(text="x").event())
            pong = await one.read_event()
            assert pong is not None and Pong.from_event(pong).text == "x"

    tried(ask)


def test_phrases_of_one_connection_and_of_several_at_once() -> None:
    clips = [audio.load(clip, RATE) for clip in CLIPS[:5]]

    async def ask(client: Callable[[], AsyncTcpClient]) -> None:
        async def speak(number: int) -> str:
            async with client() as one:
                return text(await spoken(one, clips[number]))

        async with client() as one:
            for clip in clips[:2]:
                assert text(await spoken(one, clip)) == f"heard {len(clip) / RATE:.2f}"
        answers = await asyncio.gather(*map(speak, range(5)))
        assert list(answers) == [f"heard {len(clip) / RATE:.2f}" for clip in clips]

    assert tried(ask).most == 1


@pytest.mark.parametrize(("rate", "width", "channels"), [(48_000, 2, 2), (16_000, 4, 1), (8_000, 2, 1)])
def test_other_forms_of_sound_are_converted(rate: int, width: int, channels: int) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 220 * np.arange(rate) / rate)
    values = (tone * (1 << (8 * width - 1))).astype(f"<i{width}")
    content = np.repeat(values[:, None], channels, axis=1).tobytes()

    async def ask(client: Callable[[], AsyncTcpClient]) -> None:
        async with client() as one:
            form = {"rate": rate, "width": width, "channels": channels}
            await one.write_event(AudioStart(**form).event())
            await one.write_event(AudioChunk(**form, audio=content).event())
            await one.write_event(AudioStop().event())
            assert text(await one.read_event()) == "heard 1.00"

    tried(ask)


def test_silence_and_clicks_have_no_text() -> None:
    async def ask(client: Callable[[], AsyncTcpClient]) -> None:
        async with client() as one:
            for seconds in (2.0, 0.01, 0.0):
                assert text(await spoken(one, np.zeros(int(seconds * RATE), np.float32))) == ""

    assert tried(ask).read == []


def test_what_cannot_be_read_is_said_and_ends_the_connection() -> None:
    clip = audio.load(CLIPS[0], RATE)

    async def ask(client: Callable[[], AsyncTcpClient]) -> None:
        async def said(*events: Event) -> str:
            async with client() as one:
                for event in events:
                    await one.write_event(event)
                answer = refusal(await one.read_event())
                assert await one.read_event() is None
                return answer

        assert "reads en" in await said(Transcribe(language="de").event())
        assert "ask for mine" in await said(Transcribe(name="other").event())
        assert "before any sound" in await said(AudioStop().event())
        assert "cannot be read" in await said(AudioStart(rate=16_000, width=3, channels=1).event())
        assert "cannot be read" in await said(AudioStart(rate=0, width=2, channels=1).event())
        many = AudioChunk(rate=16_000, width=2, channels=1, audio=bytes(3 * 2 * RATE)).event()
        assert "too long" in await said(many)
        other = AudioChunk(rate=8_000, width=2, channels=1, audio=bytes(10)).event()
        assert "another form" in await said(AudioStart(rate=16_000, width=2, channels=1).event(), other)
        async with client() as one:  # the server goes on
            assert text(await spoken(one, clip[: 2 * RATE])) == "heard 2.00"

    tried(ask, max_seconds=2)


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"{}\n",
        b'{"type": "audio-start"}\n',
        b'{"type": "audio-chunk", "data": []}\n',
        b'{"type": "transcribe", "data_length": 4}\nnone',
    ],
)
def test_nonsense_ends_its_own_connection_only(sent: bytes) -> None:
    async def ask(client: Callable[[], AsyncTcpClient]) -> None:
        one = client()
        reader, writer = await asyncio.open_connection(one.host, one.port)
        writer.write(sent)
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        async with client() as other:
            await other.write_event(Describe().event())
            assert await other.read_event() is not None

    tried(ask)


def test_a_full_queue_is_said() -> None:
    model = Clock()
    model.gate.clear()
    clip = audio.load(CLIPS[0], RATE)

    async def run() -> None:
        async with listening(reader_of(model, queue=0)) as client, client() as first, client() as second:
            asked = asyncio.create_task(spoken(first, clip))
            while not model.busy:
                await asyncio.sleep(0.01)
            assert "try again" in refusal(await spoken(second, clip))
            model.gate.set()
            assert text(await asked).startswith("heard ")

    asyncio.run(run())
