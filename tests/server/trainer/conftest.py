"""An undisturbed job, with which the tests compare jobs that were killed and resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.trainer.jobs import log, make_job, train


@pytest.fixture(scope="session")
def undisturbed(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do not write here."""
    folder = make_job(tmp_path_factory.mktemp("jobs") / "undisturbed", tones_once)
    assert train(folder) == 0, log(folder)
    return folder


@pytest.fixture
def job(tones_once: Path, tmp_path: Path) -> Path:
    return make_job(tmp_path / "job", tones_once)
