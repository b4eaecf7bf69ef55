"""Freed memory is reused, and the user's own setting is respected."""

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
    """A second tensor of the same size causes few page faults; otherwise one for each 4 KiB."""
    num_faults = {}
    for arm in ("plain", "kept"):
        environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
        command = [sys.executable, "-c", FAULTS, arm]
        num_faults[arm] = int(
            subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        )
    assert num_faults["kept"] < num_faults["plain"] / 10


def test_the_users_setting_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    keep()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
