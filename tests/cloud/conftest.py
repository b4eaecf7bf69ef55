"""A home and a folder of recordings for rentals."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.client.folders import make_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``ASR_CLOUD_HOME``."""
    monkeypatch.setenv("ASR_CLOUD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings; do not write here."""
    return make_folder(tmp_path_factory.mktemp("cloud") / "clips")
