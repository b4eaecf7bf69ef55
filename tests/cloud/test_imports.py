"""Renting a GPU needs neither torch nor the server, and no package of a provider other than the one in use."""

from __future__ import annotations

import subprocess
import sys

MODULES = ("rental", "remote", "local", "local_worker", "providers", "endings", "fetch")
HEAVY = ("torch", "lightning", "transformers", "modal", "sky", "fastapi", "asr_lightning.server.http")


def test_the_cloud_loads_nothing_heavy() -> None:
    code = f"import importlib, sys\nfor m in {MODULES}: importlib.import_module('asr_lightning.cloud.' + m)\n"
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.stdout.strip(), result.returncode) == ("[]", 0), result.stderr


def test_help_loads_nothing_heavy() -> None:
    call = [sys.executable, "-X", "importtime", "-m", "asr_lightning", "cloud", "run", "--help"]
    result = subprocess.run(call, capture_output=True, text=True)
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert result.returncode == 0 and "--max_cost" in result.stdout
    assert not imported & {*HEAVY, "numpy", "httpx"}
