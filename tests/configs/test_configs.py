"""Every shipped configuration parses, and builds its model, data module, trainer and callbacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from asr_lightning.cli import help_pages
from tests import tiny_hf
from tests.tiny_models import tiny_whisper
from tests.tiny_nemo import tiny_nemo

ROOT = Path(__file__).parents[2]
HUGGING_FACE = {"moonshine": "moonshine", "wav2vec2": "wav2vec2", "parakeet_hf": "parakeet_tdt"}
NEMO = {"fastconformer_ctc": "ctc", "fastconformer_hybrid": "hybrid", "parakeet_tdt": "tdt"}
CONFIGS = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.nemo] if path.stem in NEMO else [])
    for path in sorted((ROOT / "configs").rglob("*.yaml"))
]


@pytest.mark.parametrize("path", CONFIGS)
def test_config_parses_and_instantiates(path: Path, tones: Path, tmp_path: Path, monkeypatch) -> None:
    from asr_lightning.cli import lightning_cli

    monkeypatch.setattr(lightning_cli.ASRCLI, "fit", lambda self, **kwargs: None, raising=False)
    monkeypatch.setattr(lightning_cli.ASRCLI, "after_fit", lambda self: None)
    paths = ["--data.audio_dir", str(tones), "--run_dir", str(tmp_path / "run")]
    model = ["--config", str(ROOT / "configs/models/whisper.yaml")] if path.parent.name == "recipes" else []
    built = lightning_cli.main(["fit", *model, "--config", str(path), *source_of(path, tmp_path), *paths])
    assert built.trainer.max_epochs
    assert built.model.adapter.model is built.model.model
    assert {"BaselineWER", "KeepBest", "StopEarly", "TrainOnly", "HalfEpochValidation"} <= {
        type(callback).__name__ for callback in built.trainer.callbacks
    }


def source_of(path: Path, folder: Path) -> list[str]:
    """Return options that replace a hub id that is not bundled by a tiny model on disk."""
    if path.stem in ("toy", "demo"):
        return []
    if path.stem in NEMO:
        return ["--model.adapter.init_args.source", str(tiny_nemo(folder / "model.nemo", NEMO[path.stem]))]
    if path.stem in HUGGING_FACE:
        kind = HUGGING_FACE[path.stem]
        return ["--model.adapter.init_args.source", str(tiny_hf.write_tiny(folder / "model", kind))]
    return ["--model.adapter.init_args.source", str(tiny_whisper(folder / "model", multilingual=True))]


def test_print_config_is_readable() -> None:
    command = [sys.executable, "-m", "asr_lightning", "fit", "--config", "configs/demo.yaml", "--print_config"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    config = yaml.safe_load(result.stdout)
    assert config["model"]["adapter"]["init_args"]["source"] == "openai/whisper-tiny.en"
    assert config["early_stopping"]["patience"] > 0
    assert len(result.stdout.splitlines()) < 147


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_help_pages_are_current(command: str) -> None:
    """The stored pages equal those that ``make help-pages`` would write, with the options of the locked Lightning."""
    import lightning

    locked = (ROOT / "requirements.lock").read_text()
    if f"lightning=={lightning.__version__} " not in locked:
        pytest.skip(f"the pages describe the locked Lightning, not {lightning.__version__}")
    code = f"from asr_lightning.cli.help_pages import page; print(page({command!r}), end='')"
    fresh = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert fresh == (help_pages.PAGES / f"{command}.txt").read_text(), "run make help-pages"
