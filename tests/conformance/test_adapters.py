"""Tests every adapter of this package against the contract. A new one takes a line in ``ADAPTERS`` and a fixture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from asr_lightning import conformance
from asr_lightning.adapters.nemo import NeMoAdapter
from asr_lightning.adapters.shared.lora import LoRA
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.protocols import ASRAdapter
from tests import tiny_hf
from tests.tiny_models import tiny_whisper
from tests.tiny_nemo import KINDS, tiny_nemo

REAL = "openai/whisper-tiny.en"
Adapters = dict[str, Callable[[], ASRAdapter]]


@pytest.fixture(scope="module")
def nemo_adapters(tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    root = tmp_path_factory.mktemp("nemo")
    files = {kind: str(tiny_nemo(root / f"{kind}.nemo", kind)) for kind in (*KINDS, "ctc-characters")}
    adapters: Adapters = {f"nemo-{kind}": partial(NeMoAdapter, path) for kind, path in files.items()}
    adapters["nemo-hybrid-read-by-ctc"] = partial(NeMoAdapter, files["hybrid"], decoder="ctc")
    adapters["nemo-tdt-linear-adapter"] = partial(NeMoAdapter, files["tdt"], linear_adapter_dim=8)
    fused = tiny_nemo(root / "fused.nemo", "tdt", joint__fuse_loss_wer=True)
    adapters["nemo-tdt-fused"] = partial(NeMoAdapter, str(fused))
    return adapters


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> Adapters:
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
VARIANTS = [*KINDS, "ctc-characters", "hybrid-read-by-ctc", "tdt-linear-adapter", "tdt-fused"]


@pytest.mark.parametrize("check", conformance.CHECKS)
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapter_keeps_the_contract(adapters: Adapters, name: str, check: str) -> None:
    print(conformance.CHECKS[check](adapters[name]()) or "")


@pytest.mark.nemo
@pytest.mark.parametrize("check", conformance.CHECKS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_nemo_keeps_the_contract(nemo_adapters: Adapters, variant: str, check: str) -> None:
    print(conformance.CHECKS[check](nemo_adapters[f"nemo-{variant}"]()) or "")


LORA_KINDS = ("whisper", *tiny_hf.KINDS)
LORA_CHECKS = [
    name
    for name in conformance.CHECKS
    if name not in ("save and reload", "loss is finite with gradients in every group")
]
"""With LoRA, the saved model has other tensors and only LoRA has gradients, which is intended:
``tests/unit/adapters/test_lora.py`` tests both."""


@pytest.fixture(scope="module")
def hf_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("hf")
    folders = {kind: tiny_hf.write_tiny(root / kind, kind) for kind in tiny_hf.KINDS}
    return {**folders, "whisper": tiny_whisper(root / "whisper", multilingual=False)}


@pytest.mark.parametrize("check", conformance.CHECKS)
@pytest.mark.parametrize("kind", tiny_hf.KINDS)
def test_hugging_face_keeps_the_contract(hf_folders: dict[str, Path], kind: str, check: str) -> None:
    print(conformance.CHECKS[check](tiny_hf.load_tiny(hf_folders[kind], kind)) or "")


@pytest.mark.once
@pytest.mark.parametrize("check", LORA_CHECKS)
@pytest.mark.parametrize("kind", LORA_KINDS)
def test_lora_keeps_the_contract(hf_folders: dict[str, Path], kind: str, check: str) -> None:
    load = WhisperAdapter if kind == "whisper" else partial(tiny_hf.load_tiny, kind=kind)
    print(conformance.CHECKS[check](load(str(hf_folders[kind]), lora=LoRA(8, alpha=64))) or "")


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
