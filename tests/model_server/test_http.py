"""OpenAI's protocol, asked by the real ``openai`` client over a real socket."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from asr_lightning.runtime.contract import GREEDY, Decoding, Hypothesis
from tests.model_server.serving import CLIPS, OPEN, RATE, Clock, Samples, phrases, reader_of, served, write_wav

TOKEN = "a-token-of-the-operator"


@pytest.fixture(scope="module")
def model() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def url(model: Clock) -> Iterator[str]:
    with served(reader_of(model, max_seconds=60), replace(OPEN, max_bytes=4 << 20)) as address:
        yield address


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with client_of(url) as made:
        yield made


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phrases with pauses, longer than 15 s."""
    return write_wav(tmp_path_factory.mktemp("long") / "three phrases.wav", phrases(3))


def client_of(url: str, token: str = "unused", retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=token, max_retries=retries)


def test_a_short_recording_in_every_format(client: openai.OpenAI) -> None:
    ask = client.audio.transcriptions.create
    read = ask(file=CLIPS[0], model="mine")
    assert re.fullmatch(r"heard \d\.\d\d", read.text)
    assert ask(file=CLIPS[0], model="mine", response_format="text") == read.text + "\n"
    end = f"00:00:0{read.text.split()[1]}"
    srt = ask(file=CLIPS[0], model="mine", response_format="srt")
    assert re.fullmatch(rf"1\n00:00:00,000 --> {end[:-3]},\d\d\d\n{read.text}\n\n", srt)
    vtt = ask(file=CLIPS[0], model="mine", response_format="vtt")
    assert re.fullmatch(rf"WEBVTT\n\n1\n00:00:00\.000 --> {end[:-3]}\.\d\d\d\n{read.text}\n\n", vtt)
    verbose = ask(file=CLIPS[0], model="mine", response_format="verbose_json")
    assert (verbose.text, verbose.language, len(verbose.segments), verbose.words) == (read.text, "en", 1, None)
    assert verbose.duration == pytest.approx(float(read.text.split()[1]), abs=0.01)
    assert verbose.segments[0].avg_logprob == pytest.approx(np.log(0.8))


def test_a_long_recording_has_the_times_of_phrases_and_words(client: openai.OpenAI, long: Path) -> None:
    ask = client.audio.transcriptions.create
    read = ask(file=long, model="mine", response_format="verbose_json", timestamp_granularities=["word", "segment"])
    assert len(read.segments) == 3
    assert read.text == " ".join(segment.text for segment in read.segments)
    starts = [segment.start for segment in read.segments]
    assert starts[0] > 2 and np.diff(starts).min() > 3
    assert [word.word for word in read.words][::2] == ["heard"] * 3
    for segment, word in zip(read.segments, read.words[::2], strict=True):
        assert abs(word.start - segment.start) < 1  # from the start of the recording, not of the phrase
    only = ask(file=long, model="mine", response_format="verbose_json", timestamp_granularities=["word"])
    assert (only.segments, len(only.words)) == (None, 6)
    blocks = ask(file=long, model="mine", response_format="srt").strip().split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == ["1", "2", "3"]


@pytest.mark.parametrize(("file", "least"), [("short", 1), ("long", 3)])
def test_a_streamed_answer_has_a_piece_for_each_phrase(
    file: str, least: int, client: openai.OpenAI, long: Path
) -> None:
    events = list(
        client.audio.transcriptions.create(file=long if file == "long" else CLIPS[0], model="mine", stream=True)
    )
    assert [event.type for event in events] == ["transcript.text.delta"] * least + ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text


def test_fields_that_have_no_effect_are_accepted(client: openai.OpenAI) -> None:
    plain = client.audio.transcriptions.create(file=CLIPS[1], model="mine").text
    assert plain == client.audio.transcriptions.create(
        file=("speech.mp3", CLIPS[1].read_bytes()), model="whisper-1", prompt="Names: Ada", temperature=0.4,
        language="en-US", extra_body={"hotwords": "Ada"},
    ).text  # fmt: skip


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["mine"]
    assert client.models.retrieve("mine").owned_by == "asr_lightning"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "gpt-4o-transcribe"}, 404, "model_not_found", "model"),
        ({"language": "de"}, 400, "invalid_value", "language"),
        ({"temperature": 1.5}, 400, "invalid_value", "temperature"),
        ({"temperature": "warm"}, 400, "invalid_value", "temperature"),
        ({"temperature": "nan"}, 400, "invalid_value", "temperature"),
        ({"response_format": "xml"}, 400, "invalid_value", "response_format"),
        ({"timestamp_granularities": ["word"]}, 400, "invalid_value", "timestamp_granularities"),
        ({"response_format": "srt", "stream": True}, 400, "invalid_value", "stream"),
        ({"file": b""}, 400, "invalid_audio", "file"),
        ({"file": b"RIFF this is no recording"}, 400, "invalid_audio", "file"),
        ({"file": CLIPS[0].read_bytes()[:2000]}, 400, "invalid_audio", "file"),
        ({"file": b"RIFF this is no recording", "stream": True}, 400, "invalid_audio", "file"),
        ({"file": bytes(5 << 20)}, 413, "file_too_large", "file"),
    ],
)
def test_errors_are_those_of_the_protocol(
    fields: dict[str, object], status: int, code: str, param: str, client: openai.OpenAI
) -> None:
    asked = {"file": CLIPS[0].read_bytes(), "model": "mine", **fields}
    asked["file"] = ("a clip.ogg", asked["file"])
    with pytest.raises(openai.APIStatusError) as refused:
        client.audio.transcriptions.create(**asked)
    error = refused.value
    assert (error.status_code, error.code, error.param, error.type) == (status, code, param, "invalid_request_error")
    assert "/tmp" not in error.message and "Traceback" not in error.message


def test_a_damaged_recording_is_named_as_the_client_calls_it(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"my note\.wav: ") as refused:
        client.audio.transcriptions.create(file=("../../etc/my note.wav", b"RIFF nothing"), model="mine")
    assert "etc" not in str(refused.value)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/v1/audio/transcriptions", 405, "method_not_allowed"), ("POST", "/v1/audio/speech", 404, "not_found")],
)
def test_other_paths_are_refused_in_the_same_form(method: str, path: str, status: int, code: str, url: str) -> None:
    answer = httpx.request(method, url + path)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_a_form_without_a_file_is_refused(url: str) -> None:
    for form in ({"data": {"model": "mine"}}, {"content": b"{}"}, {"data": {"model": "mine", "file": "text"}}):
        answer = httpx.post(f"{url}/v1/audio/transcriptions", **form)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    broken = {"content-type": "multipart/form-data; boundary=x"}
    answer = httpx.post(f"{url}/v1/audio/transcriptions", content=b"--y\r\nnonsense", headers=broken)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_recording_that_is_too_long_is_refused(client: openai.OpenAI, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 0.1, 61 * RATE).astype(np.float32)
    path = write_wav(tmp_path / "hour.wav", noise.clip(-1, 1))
    with pytest.raises(openai.BadRequestError, match="at most 60 s are read") as refused:
        client.audio.transcriptions.create(file=path, model="mine")
    assert refused.value.code == "audio_too_long"


@pytest.mark.parametrize("seconds", [2, 30])
def test_silence_has_no_text(seconds: int, client: openai.OpenAI, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "silence.wav", np.zeros(seconds * RATE, np.float32))
    read = client.audio.transcriptions.create(file=path, model="mine", response_format="verbose_json")
    assert (read.text, read.segments, read.duration) == ("", [], seconds)


class Wordless(Clock):
    """As a model in torch, which tells no times of words."""

    def transcribe(self, clips: Sequence[Samples], decoding: Decoding = GREEDY) -> list[Hypothesis]:
        return super().transcribe(clips, GREEDY)


def test_a_model_without_times_of_words_says_so() -> None:
    with served(reader_of(Wordless())) as url, client_of(url) as client:
        ask = client.audio.transcriptions.create
        with pytest.raises(openai.BadRequestError, match="does not tell the times of words: ask for segment"):
            ask(file=CLIPS[0], model="mine", response_format="verbose_json", timestamp_granularities=["word"])
        assert len(ask(file=CLIPS[0], model="mine", response_format="verbose_json").segments) == 1


def test_a_token_is_required_where_there_is_one() -> None:
    with served(reader_of(Clock()), replace(OPEN, hosts=None, token=TOKEN)) as url:
        with client_of(url, TOKEN) as client:
            assert client.audio.transcriptions.create(file=CLIPS[0], model="mine").text
        with client_of(url, "a-token-of-somebody") as client, pytest.raises(openai.AuthenticationError) as refused:
            client.audio.transcriptions.create(file=CLIPS[0], model="mine")
        assert refused.value.code == "invalid_api_key"
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/v1/models", headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}


def test_recordings_are_read_one_at_a_time_and_a_full_queue_says_when_to_try_again() -> None:
    model = Clock()
    model.gate.clear()
    reader = reader_of(model, queue=2)
    with served(reader) as url, client_of(url) as client, ThreadPoolExecutor(8) as pool:
        ask = client.audio.transcriptions.create
        asked = [pool.submit(ask, file=clip, model="mine") for clip in CLIPS[:3]]
        wait_until(lambda: reader.pending == 3)
        with pytest.raises(openai.InternalServerError, match="2 recordings wait") as refused:
            ask(file=CLIPS[3], model="mine")
        assert (refused.value.status_code, refused.value.code) == (503, "server_busy")
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
        with client_of(url, retries=5) as patient:
            later = pool.submit(patient.audio.transcriptions.create, file=CLIPS[3], model="mine")
            model.gate.set()
            texts = [each.result(60).text for each in [*asked, later]]
    assert len(set(texts)) == len(model.read) == 4
    assert model.most == 1


def wait_until(is_so: Callable[[], bool], seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_a_recording_whose_client_has_gone_is_not_read() -> None:
    model = Clock()
    model.gate.clear()
    reader = reader_of(model)
    with served(reader) as url, client_of(url) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.audio.transcriptions.create, file=CLIPS[0], model="mine")
        wait_until(lambda: model.busy == 1)
        with pytest.raises(openai.APITimeoutError):
            client.audio.transcriptions.create(file=CLIPS[1], model="mine", timeout=0.5)
        wait_until(lambda: reader.pending == 1)
        model.gate.set()
        assert first.result(30).text
        assert client.audio.transcriptions.create(file=CLIPS[2], model="mine").text
    assert len(model.read) == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "127.0.0.1:1234"}, 200),
        ({"Host": "evil.example.org"}, 403),
        ({"Origin": "https://evil.example.org"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_may_not_ask(headers: dict[str, str], status: int, url: str) -> None:
    answer = httpx.get(f"{url}/v1/models", headers=headers)
    assert answer.status_code == status
    assert "access-control-allow-origin" not in answer.headers


def test_a_page_that_was_allowed_may_ask() -> None:
    page = "https://chat.example.org"
    with served(reader_of(Clock()), replace(OPEN, origins=(page,))) as url:
        ask = {
            "Origin": page,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        preflight = httpx.options(f"{url}/v1/audio/transcriptions", headers=ask)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, page)
        assert httpx.get(f"{url}/v1/models", headers={"Origin": page}).headers["access-control-allow-origin"] == page
        assert httpx.get(f"{url}/v1/models", headers={"Origin": "https://evil.example.org"}).status_code == 403
