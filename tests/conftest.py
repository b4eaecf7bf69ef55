"""Fixtures shared by every tier: the toy adapter's synthetic folder, and a trainer that leaves nothing behind."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Lightning's command line, 2.4 and 2.6, uses what jsonargparse 4.53 calls old names: nothing to change on our side.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
sys.path.insert(0, str(ROOT / "examples"))


@pytest.fixture(scope="session")
def tones_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's phrases, with their split; do not write here."""
    from make_tones import write_tones

    folder = tmp_path_factory.mktemp("shared") / "tones"
    write_tones(folder)
    return folder


@pytest.fixture
def tones(tones_once: Path, tmp_path: Path) -> Path:
    """A copy of the toy's phrases for one test."""
    import shutil

    return Path(shutil.copytree(tones_once, tmp_path / "tones"))
