"""Fixtures of the tests of rentals: a home folder and a folder of recordings."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.client.folders import make_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that ``ASR_CLOUD_HOME`` names."""
    monkeypatch.setenv("ASR_CLOUD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four recordings. All tests share it, so do not write to it."""
    return make_folder(tmp_path_factory.mktemp("cloud") / "clips")
