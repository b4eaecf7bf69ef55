"""Tiny random models, written once; adapters over them, fresh for each test."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.utils import close_session

from asr_lightning.adapters.nemo import NeMoAdapter
from asr_lightning.adapters.shared import hub
from asr_lightning.adapters.whisper import WhisperAdapter
from tests.tiny_hf import load_tiny, write_tiny
from tests.tiny_models import tiny_whisper
from tests.tiny_nemo import EVERY_KIND, tiny_nemo

OPTIONS = {"en": {}, "multilingual": {"language": "de"}}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Networks of 32 columns run several times slower on two threads of a busy machine: they wait for each other."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder with nothing in it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "_silent", set())
    return tmp_path / "cache"


@pytest.fixture
def no_network(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub whose name does not resolve, on whatever machine the test runs."""

    def refuse(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    close_session()
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="session")
def whisper_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An English-only and a multilingual model; do not write here."""
    root = tmp_path_factory.mktemp("whisper")
    return {kind: tiny_whisper(root / kind, multilingual=kind == "multilingual") for kind in OPTIONS}


@pytest.fixture
def make_whisper(whisper_folders: dict[str, Path]) -> Callable[..., WhisperAdapter]:
    """A function from kind (``en``, ``multilingual``) and options to an adapter."""

    def make(kind: str = "en", **options: Any) -> WhisperAdapter:
        return WhisperAdapter(str(whisper_folders[kind]), **(OPTIONS[kind] | options))

    return make


@pytest.fixture(params=["en", "multilingual"])
def whisper(request: pytest.FixtureRequest, make_whisper: Callable[..., WhisperAdapter]) -> WhisperAdapter:
    """Both kinds, one after the other."""
    return make_whisper(request.param)


@pytest.fixture(scope="session")
def nemo_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of every kind; do not write here."""
    folder = tmp_path_factory.mktemp("nemo")
    return {kind: tiny_nemo(folder / f"{kind}.nemo", kind) for kind in EVERY_KIND}


@pytest.fixture
def make_nemo(nemo_files: dict[str, Path]) -> Callable[..., NeMoAdapter]:
    """A function from kind and options to an adapter."""
    return lambda kind="ctc", **options: NeMoAdapter(str(nemo_files[kind]), **options)


class LazyFolders(dict[str, Path]):
    """Tiny Hugging Face models by kind, each written when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __missing__(self, kind: str) -> Path:
        folder = self.root / kind
        self[kind] = tiny_whisper(folder, multilingual=False) if kind == "whisper" else write_tiny(folder, kind)
        return self[kind]


@pytest.fixture(scope="session")
def hf_folders(tmp_path_factory: pytest.TempPathFactory) -> LazyFolders:
    """A folder of every kind of ``tests/tiny_hf.py``, and ``whisper``; do not write here."""
    return LazyFolders(tmp_path_factory.mktemp("hf"))


@pytest.fixture(scope="session")
def load(hf_folders: LazyFolders) -> Callable[..., Any]:
    """A function from kind and options to an adapter."""

    def make(kind: str = "wav2vec2", **options: Any) -> Any:
        folder = hf_folders[kind]
        return WhisperAdapter(str(folder), **options) if kind == "whisper" else load_tiny(folder, kind, **options)

    return make
