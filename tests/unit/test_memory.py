"""Kept memory: asked for before torch is there, and never against the user's own setting."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from asr_lightning.training.memory import keep

FAULTS = """
import resource, sys
from asr_lightning.training import memory
if sys.argv[1] == "kept":
    memory.keep()
import torch
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MiB, freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.once
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be asked")
def test_memory_that_was_freed_is_used_again() -> None:
    """A second tensor of the same size costs few page faults; without it, one for each 4 KiB."""
    values = {}
    for arm in ("plain", "kept"):
        environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
        command = [sys.executable, "-c", FAULTS, arm]
        values[arm] = int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert values["kept"] < values["plain"] / 10


def test_the_users_setting_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    keep()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
