"""The devices of this machine, found without loading torch."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess

ASK_S = 20.0


def devices() -> tuple[str, ...]:
    """All CUDA devices if there are any, else "mps" on Apple silicon, else "cpu"."""
    if count := _gpus():
        return tuple(f"cuda:{number}" for number in range(count))
    apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return ("mps",) if apple else ("cpu",)


def _gpus() -> int:
    """The number of GPUs that the NVIDIA driver lists."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return 0
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=ASK_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    return len(re.findall(r"^GPU \d+:", listed, re.MULTILINE))
