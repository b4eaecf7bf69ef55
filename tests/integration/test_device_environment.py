"""What a person's device gets: an environment with the wheel and the extra ``runtime``, made anew from the index.

It has no torch. Every module that needs no further extra is imported there, every command says which extra it lacks,
and an exported model reads a clip.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import asr_lightning
from asr_lightning.adapters import registry
from asr_lightning.data import audio
from asr_lightning.export.whisper import onnx as onnx_whisper
from asr_lightning.runtime import exported
from asr_lightning.runtime.formats import FLOAT
from tests.tiny_models import tiny_whisper

ROOT = Path(__file__).parents[2]
PYTHON = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
MAX_MB = 500
INSTALL_S = 120
NEEDS = {
    "train": (
        "adapters.hf", "adapters.hf_ctc", "adapters.hf_transducer", "adapters.modes", "adapters.moonshine",
        "adapters.nemo", "adapters.shared", "adapters.toy", "adapters.whisper", "api", "callbacks",
        "cli.finished_model", "cli.lightning_cli", "conformance", "datamodules", "export", "module", "protocols",
        "run", "runtime_torch", "scoring.comparison", "scoring.evaluation", "scoring.known_texts", "scoring.metrics",
        "training", "types",
    ),
    "export": (
        "runtime.labels.onnx_asr", "runtime.moonshine.moonshine_voice", "runtime.sherpa_onnx",
        "runtime.whisper.sherpa_onnx",
    ),
    "server": ("client", "server.http", "cloud.rental"),
    "cloud": ("cloud.modal_app",),
    "serve-model": ("model_server",),
}  # fmt: skip
"""The modules that may need an extra beside ``runtime``, each with everything below it."""

IMPORT_ALL = """
import asr_lightning, importlib, json, pkgutil
from asr_lightning.errors import EXTRAS
failed = {}
for module in pkgutil.walk_packages(asr_lightning.__path__, "asr_lightning."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            failed[module.name] = EXTRAS.get(error.name.partition(".")[0], error.name)
print(json.dumps(failed))
"""
DOORS = """
import asr_lightning, json
said = {}
for name in ("specialize", "ASRModule", "check_adapter"):
    try:
        getattr(asr_lightning, name)
    except ValueError as error:
        said[name] = str(error)
print(json.dumps([said, asr_lightning.RunSpec.__name__, len(asr_lightning.adapters.registry.cards())]))
"""
COMMANDS = {
    "specialize DATA": "train",
    "fit --model whisper-tiny.en --data.audio_dir DATA": "train",
    "validate --run_dir RUN": "train",
    "test --run_dir RUN": "train",
    "predict DATA --model toy": "train",
    "check-adapter asr_lightning.adapters.toy.ToyAdapter --source toy": "train",
    "serve": "server",
    "serve token list": "server",
    "remote status": "server",
    "cloud status": "cloud",
}


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment's Python; the test is skipped where nothing can be installed from an index."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is not installed: make install brings it")
    folder = tmp_path_factory.mktemp("device")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(folder / "env")], check=True)
    python = folder / "env" / PYTHON
    install = [uv, "pip", "install", "-q", "--python", str(python), f"asr-lightning[runtime] @ {wheel.as_uri()}"]
    started = time.monotonic()
    try:
        done = subprocess.run(install, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        pytest.skip(f"the package index did not give the extra runtime within {INSTALL_S} s")
    if done.returncode and any(word in done.stderr for word in ("error sending request", "Failed to fetch", "dns")):
        pytest.skip(f"the package index cannot be reached: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    print(f"installed in {time.monotonic() - started:.1f} s")
    return python


def called(python: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the environment's Python far from this repository, whose package it would find otherwise."""
    return subprocess.run([str(python), *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_it_is_small_and_has_no_torch(device: Path, tmp_path: Path) -> None:
    packages = device.parents[1]
    megabytes = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) / 1e6
    print(f"{megabytes:.0f} MB")
    assert megabytes < MAX_MB
    names = "('torch', 'lightning', 'transformers', 'torchaudio')"
    code = f"from importlib.util import find_spec; print([name for name in {names} if find_spec(name)])"
    assert called(device, "-c", code, cwd=tmp_path).stdout.strip() == "[]"


def test_every_module_that_needs_no_further_extra_can_be_imported(device: Path, tmp_path: Path) -> None:
    result = called(device, "-c", IMPORT_ALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    allowed = {f"asr_lightning.{name}": extra for extra, names in NEEDS.items() for name in names}
    unexpected = {
        module: extra
        for module, extra in json.loads(result.stdout).items()
        if not any(module == name or module.startswith(f"{name}.") for name in allowed)
    }
    assert unexpected == {}


def test_public_names_say_which_extra_they_need(device: Path, tmp_path: Path) -> None:
    said, spec, cards = json.loads(called(device, "-c", DOORS, cwd=tmp_path).stdout)
    assert (spec, cards > 20) == ("RunSpec", True)
    assert len(said) == 3
    for name, text in said.items():
        assert text.startswith(f"asr_lightning.{name} needs ")
        assert text.endswith("which is not installed here: pip install 'asr-lightning[train]'")


@pytest.mark.parametrize(("command", "extra"), COMMANDS.items())
def test_commands_say_which_extra_they_need(
    command: str, extra: str, device: Path, tones: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("{}\n")
    words = [{"DATA": str(tones), "RUN": str(run)}.get(word, word) for word in command.split()]
    result = called(device, "-m", "asr_lightning", *words, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[0].startswith("error: ")
    assert f"which is not installed here: pip install 'asr-lightning[{extra}]'" in result.stderr.splitlines()[0]
    assert "Traceback" not in result.stderr


def test_what_needs_no_extra_works(device: Path, tmp_path: Path) -> None:
    assert "whisper-tiny.en" in called(device, "-m", "asr_lightning", "models", cwd=tmp_path).stdout
    for command in ("fit", "specialize", "predict", "serve", "remote", "cloud"):
        assert called(device, "-m", "asr_lightning", command, "--help", cwd=tmp_path).returncode == 0, command


@pytest.fixture(scope="module")
def exported_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Whisper in ONNX, as ``export`` writes it, beside the folder ``saved`` that it was made from."""
    folder = tmp_path_factory.mktemp("exported")
    registry.build(str(tiny_whisper(folder / "tiny", multilingual=False))).save(folder / "saved")
    target = folder / f"onnx-{FLOAT}"
    target.mkdir()
    settings = onnx_whisper.convert(folder / "saved", target, FLOAT)
    record = exported.ExportRecord("onnx", FLOAT, "whisper", "tiny", settings, {}, {}, None, "")
    dataclasses.replace(record, files=exported.sha256_of(target)).write(target)
    return target


def test_an_exported_model_reads_as_it_does_in_torch(
    device: Path, exported_model: Path, tones: Path, tmp_path: Path
) -> None:
    clips = sorted(tones.glob("*.wav"))[:3]
    expected = [asr_lightning.load(exported_model.parent / "saved").transcribe(clip).text for clip in clips]
    assert any(expected)
    samples = [audio.load(clip, 16_000) for clip in clips]
    assert [read.text for read in exported.load(exported_model).transcribe(samples)] == expected
    command = ["-m", "asr_lightning", "transcribe", *map(str, clips), "--model", str(exported_model)]
    result = called(device, *command, "--format", "jsonl", "--beam", "1", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == expected


def test_a_model_in_torch_says_how_it_runs_without(
    device: Path, exported_model: Path, tones: Path, tmp_path: Path
) -> None:
    command = ["-m", "asr_lightning", "transcribe", str(tones), "--model", str(exported_model.parent / "saved")]
    result = called(device, *command, cwd=tmp_path)
    assert result.returncode == 2
    assert "pip install 'asr-lightning[train]'" in result.stderr and "export" in result.stderr


def test_a_server_of_models_says_which_extra_it_needs(device: Path, exported_model: Path, tmp_path: Path) -> None:
    result = called(device, "-m", "asr_lightning", "serve-model", str(exported_model), cwd=tmp_path)
    assert result.returncode == 2
    assert "pip install 'asr-lightning[serve-model]'" in result.stderr
