"""A function in a process of its own: its result, its refusals, its crashes, and its time limit."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import pytest

from asr_lightning.errors import OptionError
from asr_lightning.export import child

HERE = "tests.unit.export.test_child"


def double(request: Mapping[str, Any]) -> dict[str, Any]:
    print("a library that writes to stdout")
    return {"text": request["text"] * 2, "threads": os.environ.get("OMP_NUM_THREADS")}


def refuse(request: Mapping[str, Any]) -> None:
    raise OptionError("take another one, as in --to this")


def fail(request: Mapping[str, Any]) -> None:
    raise KeyError("a fault of ours")


def abort(request: Mapping[str, Any]) -> None:
    sys.stderr.write("GGML_ASSERT: it goes no further\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGABRT)


def hang(request: Mapping[str, Any]) -> None:
    time.sleep(600)


def test_returns_the_result_whatever_is_printed() -> None:
    value = child.call(f"{HERE}:double", {"text": "naïve "}, 60, threads=1)
    assert value == {"text": "naïve naïve ", "threads": "1"}


def test_a_refusal_crosses_the_border_as_it_is() -> None:
    with pytest.raises(OptionError, match="as in --to this"):
        child.call(f"{HERE}:refuse", {}, 60)


@pytest.mark.parametrize(
    ("function", "seconds", "said"),
    [
        ("fail", 60, "status 1: .*KeyError: 'a fault of ours'"),
        ("abort", 60, "killed by SIGABRT: GGML_ASSERT: it goes no further"),
        ("hang", 2, "longer than 2 s"),
    ],
)
def test_what_ends_without_a_result_says_how(function: str, seconds: float, said: str) -> None:
    with pytest.raises(child.ChildError, match=said):
        child.call(f"{HERE}:{function}", {}, seconds)
