"""A missing extra is an error with the line that installs it, before anything else is looked at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from asr_lightning import errors
from asr_lightning.__main__ import main
from asr_lightning.adapters.nemo import NeMoAdapter


@pytest.fixture(autouse=True)
def without_nemo(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it were not installed, in either environment."""
    find_spec = errors.find_spec
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "nemo" else find_spec(name))


def test_missing_extra_names_the_remedy() -> None:
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'asr-lightning\[nemo\]'"):
        NeMoAdapter("model.nemo")


def test_missing_extra_on_the_command_line(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["fit", "--model.adapter=asr_lightning.adapters.nemo.NeMoAdapter"]
    arguments += ["--model.adapter.init_args.source=model.nemo", f"--data.audio_dir={tones}"]
    assert main([*arguments, f"--run_dir={tmp_path / 'run'}"]) == 2
    printed = capsys.readouterr().err
    assert "pip install 'asr-lightning[nemo]'" in printed
    assert "Traceback" not in printed


def test_importing_the_adapter_does_not_import_nemo() -> None:
    import subprocess

    code = "import sys, asr_lightning.adapters.nemo.adapter; print('nemo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
