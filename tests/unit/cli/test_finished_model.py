"""What ``validate`` and ``test`` read of a finished run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonargparse import Namespace

from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.cli import finished_model
from tests.tiny_models import tiny_whisper


@pytest.mark.parametrize(("alpha", "context"), [(0, "window"), (0.5, "true_length")])
def test_an_untouched_model_that_was_kept_is_read_as_its_makers_do(tmp_path: Path, alpha: float, context: str) -> None:
    """The configuration of the run names the mode that it would have trained, in which an untouched Whisper loops."""
    folder, run_dir = tiny_whisper(tmp_path / "tiny", multilingual=False), tmp_path / "run"
    adapter = WhisperAdapter(str(folder))
    (adapter if alpha else adapter.native()).save(run_dir / "model")
    (run_dir / "results.json").write_text(json.dumps({"alpha": alpha}))
    init_args = Namespace(source=str(folder), context="true_length", language=None)
    options = Namespace(model=Namespace(adapter=Namespace(class_path="whisper", init_args=init_args)))
    finished_model.prepare("validate", options, run_dir)
    assert WhisperAdapter(init_args.source, context=init_args.context).options.context == context
    assert init_args.source == str(run_dir / "model")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no model: run fit first"):
        finished_model.prepare("test", Namespace(), tmp_path)
