"""Which modules may load heavy libraries, tried in fresh interpreters, and which names the core must not mention."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "asr_lightning"
HEAVY = ("torch", "lightning", "transformers", "nemo")
LIGHT_MODULES = [
    "asr_lightning",
    "asr_lightning.__main__",
    "asr_lightning.cli.train",
    "asr_lightning.cli.listen",
    "asr_lightning.cli.predict",
    "asr_lightning.cli.transcribe",
    "asr_lightning.data.streams",
    "asr_lightning.listening",
    "asr_lightning.microphone",
    "asr_lightning.recognizer",
    "asr_lightning.runtime.subtitles",
    "asr_lightning.cli.check_adapter",
    "asr_lightning.cli.models",
    "asr_lightning.cli.specialize",
    "asr_lightning.reports.write",
    "asr_lightning.adapters.registry",
    "asr_lightning.adapters.cards",
    "asr_lightning.adapters.saved",
    "asr_lightning.scoring.text",
    "asr_lightning.scoring.edits",
    "asr_lightning.data.audio",
    "asr_lightning.data.splits",
    "asr_lightning.server.engine.engine",
    "asr_lightning.server.intake.__main__",
    "asr_lightning.server.http.app",
    "asr_lightning.client",
    "asr_lightning.cli.serve",
    "asr_lightning.cli.remote",
    "asr_lightning.cli.run_job",
    "asr_lightning.cli.cloud",
    "asr_lightning.cloud.rental",
    "asr_lightning.cloud.local",
    "asr_lightning.runtime.exported",
    "asr_lightning.export.measure",
    "asr_lightning.export.run",
    "asr_lightning.export.bench",
    "asr_lightning.cli.export",
    "asr_lightning.cli.bench_device",
    "asr_lightning.runtime.whisper.onnx",
    "asr_lightning.runtime.whisper.sherpa_onnx",
    "asr_lightning.runtime.whisper.transformers_js",
]
CORE = [PACKAGE / "module.py", *(PACKAGE / "callbacks").glob("*.py"), *(PACKAGE / "datamodules").glob("*.py")]
FAMILIES = ("whisper", "moonshine", "wav2vec2", "hubert", "parakeet", "nemo", "ctc", "rnnt", "tdt")


def test_light_modules_load_nothing_heavy() -> None:
    """One interpreter imports all of them: if the heavy libraries are not loaded at the end, none has loaded them."""
    code = f"import importlib, sys\nfor m in {LIGHT_MODULES}: importlib.import_module(m)\n"
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_hugging_face_models_never_import_nemo() -> None:
    families = ", ".join(
        f"asr_lightning.adapters.{name}" for name in ("whisper", "moonshine", "hf_ctc", "hf_transducer")
    )
    code = f"import sys, {families}; print('nemo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["fit"],
        ["validate"],
        ["test"],
        ["predict"],
        ["transcribe"],
        ["listen"],
        ["models"],
        ["export"],
        ["bench-device"],
        ["check-adapter"],
        ["specialize"],
        ["serve"],
        ["remote"],
    ],
)
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    """The interpreter lists its imports; a time limit would depend on the machine."""
    call = [sys.executable, "-X", "importtime", "-m", "asr_lightning", *command, "--help"]
    started = time.monotonic()
    result = subprocess.run(call, capture_output=True, text=True)
    print(f"{command}: {time.monotonic() - started:.2f} s")
    assert result.returncode == 0
    assert "usage: python -m asr_lightning" in result.stdout
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert not imported & {*HEAVY, "numpy", "jsonargparse", "fastapi", "httpx"}


@pytest.mark.parametrize("path", CORE, ids=lambda path: path.stem)
def test_core_asks_no_model_what_it_is(path: Path) -> None:
    """If the core has to ask, the contract lacks a fact."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("isinstance", "hasattr", "getattr"), f"{path.name}:{node.lineno}"
        for name in names_in(node):
            words = {word.lower() for word in re.findall("[A-Z]?[a-z0-9]+|[A-Z]+", name)}
            assert not words & set(FAMILIES), f"{path.name}: {name}"


def names_in(node: ast.AST) -> list[str]:
    """Return the identifiers of ``node``."""
    return [str(value) for key in ("id", "attr", "name", "arg") if (value := getattr(node, key, None))]


def test_single_lightning_import() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert "pytorch_lightning" not in path.read_text(), path
