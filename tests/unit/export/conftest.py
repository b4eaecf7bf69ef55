"""Random Whispers, written once for all tests of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_whisper_cpp import openai_like


@pytest.fixture(scope="package")
def english(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A specialized English-only model."""
    return openai_like(tmp_path_factory.mktemp("english"))


@pytest.fixture(scope="package")
def german(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A specialized multilingual model that reads German."""
    return openai_like(tmp_path_factory.mktemp("german"), multilingual=True)
