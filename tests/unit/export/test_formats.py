"""The table of formats: each family has its modules, and the labels of any runtime are read alike."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from asr_lightning.errors import ModelError
from asr_lightning.runtime.formats import FORMATS, Format
from asr_lightning.runtime.labels import texts as labels
from asr_lightning.runtime.labels.features import FeatureSettings, log_mel

PAIRS = [(known, family) for known in FORMATS for family in known.families]


@pytest.mark.parametrize(("known", "family"), PAIRS, ids=lambda value: getattr(value, "name", value))
def test_each_family_of_a_format_has_its_modules(known: Format, family: str) -> None:
    modules = known.modules[family]
    converter = importlib.import_module(modules.converter)
    assert callable(converter.convert) and callable(converter.problems)
    assert modules.runtime is None or callable(importlib.import_module(modules.runtime).load)


def test_runtimes_load_no_torch() -> None:
    modules = sorted({name for known, family in PAIRS if (name := known.modules[family].runtime)})
    code = f"""
import sys
for name in {modules}:
    __import__(name)
sys.exit(','.join({{'torch', 'transformers', 'lightning'}} & set(sys.modules)) or 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_repeats_are_merged_and_blanks_dropped() -> None:
    best = [0, 1, 1, 0, 1, 2, 2, 3, 0]
    log_probs = np.log(np.full((9, 4), 0.1) + 0.6 * np.eye(4)[best]).astype(np.float32)
    found = labels.ctc_labels(log_probs, 0)
    assert [(label.number, label.first, label.last) for label in found] == [(1, 1, 2), (1, 4, 4), (2, 5, 6), (3, 7, 7)]
    read = labels.hypothesis_of(found, ("<blk>", "▁a", "b", "▁"), 0.02, words=True)
    assert read.text == "a ab"
    assert [(word.text, round(word.start, 3), round(word.end, 3)) for word in read.words] == [
        ("a", 0.02, 0.06), ("ab", 0.08, 0.14)
    ]  # fmt: skip
    assert read.words[0].confidence == pytest.approx(0.7) and read.confidence == pytest.approx(0.7)
    assert labels.hypothesis_of([], (), 0.02, words=True) == labels.hypothesis_of([], (), 0.02, words=False)


def test_labels_survive_their_file(tmp_path: Path) -> None:
    tokens = ("<blk>", "▁the", "'", "ß", "\u2028", "#")
    labels.write_tokens(tmp_path / "t.txt", tokens)
    assert labels.read_tokens(tmp_path / "t.txt") == tokens
    (tmp_path / "t.txt").write_text("a 0\nb 2\n")
    with pytest.raises(ModelError, match="in their order"):
        labels.read_tokens(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_bytes(b"\xff 0\n")
    with pytest.raises(ModelError, match="is no text"):
        labels.read_tokens(tmp_path / "t.txt")
    with pytest.raises(ModelError, match="is missing"):
        labels.read_tokens(tmp_path / "other.txt")


@pytest.mark.parametrize("mels", [80, 128])
def test_features_have_mean_0_and_deviation_1(mels: int) -> None:
    samples = np.random.default_rng(0).normal(0, 0.1, 16_100).astype(np.float32)
    features = log_mel(samples, FeatureSettings(mels=mels))
    assert features.shape == (mels, 100) and features.dtype == np.float32
    np.testing.assert_allclose(features.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(features.std(1, ddof=1), 1, atol=1e-3)
