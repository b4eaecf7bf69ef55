"""Fixtures shared by every tier: the toy adapter's synthetic folder, and a trainer that leaves nothing behind."""

from __future__ import annotations

import logging
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ONCE = [ROOT / "tests" / name for name in ("server", "cloud", "model_server", "unit/export", "unit/runtime")]
"""Folders of tests whose libraries are the same in both environments, except those of the trainer, which uses
Lightning, and of NeMo."""
TWICE = [ROOT / "tests" / name for name in ("server/trainer", "unit/export/test_nemo_formats.py")]
# Lightning's command line, 2.4 and 2.6, uses names that jsonargparse 4.53 deprecates: we cannot change that.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
# No texts are taken from earlier runs or cached for later ones; tests of the cache switch it on.
os.environ["ASR_LIGHTNING_CACHE"] = "off"
sys.path.insert(0, str(ROOT / "examples"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests whose hardware or extra is missing, and say how to run them."""
    import torch

    nemo = find_spec("nemo") is not None
    available = {"nemo": nemo, "gpu": torch.cuda.is_available(), "once": not nemo}
    reasons = {
        "nemo": "NeMo has a separate environment: make test-nemo",
        "gpu": "needs a CUDA device",
        "once": "the libraries are the same in both environments: the main one runs it",
    }
    for item in items:
        if any(map(item.path.is_relative_to, ONCE)) and not any(map(item.path.is_relative_to, TWICE)):
            item.add_marker(pytest.mark.once)
        for name, present in available.items():
            if item.get_closest_marker(name) and not present:
                item.add_marker(pytest.mark.skip(reason=reasons[name]))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Import NeMo quietly, as the adapter does: it gives a dozen warnings, and warnings are errors in these tests."""
    for handler in logging.getLogger().handlers:  # pytest's own, whose level NeMo's ``transcribe`` changes
        handler.setLevel(logging.NOTSET)
    if item.get_closest_marker("nemo") and find_spec("nemo") is not None:
        from asr_lightning.adapters.nemo.loading import quiet

        with quiet():
            import nemo.collections.asr  # noqa: F401


@pytest.fixture(scope="session")
def tones_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's phrases with their split, shared by all tests: do not write to this folder."""
    from make_tones import write_tones

    from asr_lightning.data.splits import prepare_splits

    folder = tmp_path_factory.mktemp("shared") / "tones"
    write_tones(folder)
    prepare_splits(folder)
    return folder


@pytest.fixture
def tones(tones_once: Path, tmp_path: Path) -> Path:
    """A copy of the toy's phrases for one test."""
    import shutil

    return Path(shutil.copytree(tones_once, tmp_path / "tones"))
