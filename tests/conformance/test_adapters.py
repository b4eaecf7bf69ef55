"""Every adapter that ships, against every check of the contract. A new adapter is one line in ``ADAPTERS``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from asr_lightning import checks
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.protocols import ASRAdapter
from tests.tiny_models import tiny_whisper

REAL = "openai/whisper-tiny.en"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], ASRAdapter]]:
    root = tmp_path_factory.mktemp("models")
    english = str(tiny_whisper(root / "en", multilingual=False))
    multilingual = str(tiny_whisper(root / "multilingual", multilingual=True))
    return {
        "toy": ToyAdapter,
        "whisper-tiny-random-en": partial(WhisperAdapter, english),
        "whisper-tiny-random-multilingual": partial(WhisperAdapter, multilingual, language="de"),
        "whisper-tiny-random-window": partial(WhisperAdapter, english, context="window"),
        REAL: partial(WhisperAdapter, REAL),
    }


ADAPTERS = [
    "toy",
    "whisper-tiny-random-en",
    "whisper-tiny-random-multilingual",
    "whisper-tiny-random-window",
    REAL,
]


@pytest.mark.parametrize("check", checks.CHECKS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_keeps_the_contract(adapters: dict[str, Callable[[], ASRAdapter]], name: str, check: str) -> None:
    print(checks.CHECKS[check](adapters[name]()) or "")


def test_check_adapter_command(capsys: pytest.CaptureFixture[str]) -> None:
    from asr_lightning.__main__ import main

    assert main(["check-adapter", "asr_lightning.adapters.toy.ToyAdapter", "--source", "toy"]) == 0
    assert "the adapter keeps the contract" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.such.Adapter", "--source", "x"], "no adapter no.such.Adapter"),
        (["asr_lightning.adapters.toy.Nothing", "--source", "x"], "no adapter asr_lightning.adapters.toy.Nothing"),
        (["asr_lightning.adapters.toy.ToyAdapter", "--source", "toy", "--set", "max_seconds"], "NAME=VALUE"),
    ],
)
def test_check_adapter_says_what_is_wrong(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from asr_lightning.__main__ import main

    assert main(["check-adapter", *arguments]) == 2
    assert message in capsys.readouterr().err
