"""``serve-model`` as a process of its own, with a real model; and what it refuses before it loads one."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import openai
import pytest

import asr_lightning
from asr_lightning.__main__ import main
from asr_lightning.cli import serve_model
from asr_lightning.data import audio
from asr_lightning.runtime.languages import language_of
from tests.model_server.serving import RATE, write_wav
from tests.model_server.test_wyoming import AsyncTcpClient, spoken, text


def test_a_process_serves_a_model_until_a_signal(tones: Path, tmp_path: Path) -> None:
    """Both protocols give the text that the model writes in Python."""
    clip = write_wav(tmp_path / "clip.wav", audio.load(tones / "001.wav", RATE))
    expected = asr_lightning.load("toy").transcribe(clip).text
    command = [sys.executable, "-m", "asr_lightning", "serve-model", "toy", "--port", "0", "--wyoming", "0"]
    with subprocess.Popen([*command, "--language", "de"], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = [process.stderr.readline(), process.stderr.readline()]
            http, tcp = (re.search(r"//127\.0\.0\.1:(\d+)", line) for line in said)
            assert http is not None and tcp is not None, said
            with openai.OpenAI(base_url=f"http:{http[0]}/v1", api_key="unused", max_retries=0) as client:
                assert client.audio.transcriptions.create(file=clip, model="toy").text == expected
            assert asyncio.run(_by_wyoming(int(tcp[1]), clip)) == expected
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


async def _by_wyoming(port: int, file: Path) -> str:
    async with AsyncTcpClient("127.0.0.1", port, read_timeout=30) as client:
        return text(await spoken(client, audio.load(file, RATE), "de"))


@pytest.mark.parametrize(
    ("options", "token", "message"),
    [
        ("--host 0.0.0.0", None, "others can reach 0.0.0.0, so clients need a token: export ASR_MODEL_TOKEN="),
        ("--host 0.0.0.0", "short", "ASR_MODEL_TOKEN must have at least 16 ASCII characters"),
        ("--port 70000", None, "--port must be from 0 to 65535, not 70000"),
        ("--wyoming -1", None, "--wyoming must be from 0 to 65535, not -1"),
        ("--queue -1", None, "--queue must be at least 0, not -1"),
        ("--max_mb 0", None, "--max_mb must be above 0, not 0"),
        ("--max_minutes nan", None, "--max_minutes must be above 0, not nan"),
        ("--wyoming 0", None, "give --language, such as en"),
    ],
)
def test_what_cannot_work_is_refused(
    options: str, token: str | None, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ASR_MODEL_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("ASR_MODEL_TOKEN", token)
    assert main(["serve-model", "toy", "--port", "0", *options.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_port_in_use_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve-model", "toy", "--port", str(port)]) == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err


def test_a_language_that_the_model_does_not_read_is_refused(
    tiny_whisper_en: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve-model", str(tiny_whisper_en), "--language", "de"]) == 2
    assert "reads en" in capsys.readouterr().err


@pytest.fixture
def tiny_whisper_en(tmp_path: Path) -> Path:
    """A tiny English-only Whisper."""
    from tests.tiny_models import tiny_whisper

    return tiny_whisper(tmp_path / "mine" / "model", multilingual=False)


def test_names_for_clients(tmp_path: Path, tiny_whisper_en: Path) -> None:
    assert serve_model.name_of(str(tiny_whisper_en)) == "mine"
    assert serve_model.name_of(str(tiny_whisper_en.parent)) == "mine"
    assert serve_model.name_of("whisper-tiny.en") == "whisper-tiny.en"
    assert language_of(str(tiny_whisper_en)) == "en"
    assert language_of("whisper-tiny.en") == "en"
    assert language_of("toy") is None
