"""A missing extra is an error with the line that installs it, before anything else is looked at."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from asr_lightning import _lazy, errors
from asr_lightning.__main__ import main
from asr_lightning.adapters import saved
from asr_lightning.adapters.nemo import NeMoAdapter
from asr_lightning.cli import endings
from asr_lightning.cloud.local import LocalProvider
from asr_lightning.job_folder import failure
from asr_lightning.scoring import text


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


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device: what only looks for torch does not find it. ``test_device_environment.py`` has a real one."""
    find_spec = errors.find_spec
    absent = ("torch", "transformers")
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name in absent else find_spec(name))


@pytest.mark.parametrize("command", ["specialize .", "fit", "check-adapter a.B --source c", "serve --port 0"])
def test_commands_that_train_say_so_before_anything_else(
    command: str,
    without_torch: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("ASR_HOME", str(tmp_path / "home"))
    assert main(command.split()) == 2
    assert "needs torch, which is not installed here: pip install 'asr-lightning[train]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_local_provider_says_so_before_anything_is_packed(without_torch: None, tmp_path: Path) -> None:
    with pytest.raises(errors.MissingExtraError, match=r"the provider local needs torch.*asr-lightning\[train\]"):
        LocalProvider(tmp_path).price("cpu")


def test_the_english_normalizer_says_so(without_torch: None) -> None:
    text._whisper_english.cache_clear()
    with pytest.raises(errors.MissingExtraError, match=r"english needs transformers.*asr-lightning\[train\]"):
        text.normalizer("english")("I'm")


def test_an_import_that_fails_deep_inside_is_explained_at_every_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "without_its_extra.py").write_text("raise ModuleNotFoundError('no', name='torch.nn')\n")
    monkeypatch.syspath_prepend(tmp_path)
    remedy = "which is not installed here: pip install 'asr-lightning[train]'"
    deep = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    ending = endings.of(deep)
    assert ending is not None and ending.status == 2 and remedy in ending.message
    assert failure.failure_of(deep, tmp_path).message.endswith(remedy)
    with pytest.raises(errors.MissingExtraError, match="without_its_extra.Adapter needs torch"):
        saved.class_named("without_its_extra", "Adapter")
    monkeypatch.setattr(_lazy.importlib, "import_module", lambda name: (_ for _ in ()).throw(deep))
    with pytest.raises(errors.MissingExtraError, match="asr_lightning.load needs torch"):
        _lazy.lazy("asr_lightning", {"load": "recognizer"})("load")


def test_another_missing_module_is_a_fault_of_ours() -> None:
    fault = ModuleNotFoundError("No module named 'asr_lightning.gone'", name="asr_lightning.gone")
    assert errors.missing_extra(fault, "this") is None
    assert endings.of(fault) is None
