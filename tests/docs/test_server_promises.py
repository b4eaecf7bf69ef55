"""Each promise and threat of docs/server_promises.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "server_promises.md").read_text()


def test_every_promise_and_threat_has_a_line() -> None:
    lines = re.findall(r"^\| ([PT]\d+) \|", PAGE, flags=re.MULTILINE)
    assert lines == [*(f"P{number}" for number in [*range(1, 15), 18]), *(f"T{number}" for number in range(1, 30))]


def test_every_named_test_exists() -> None:
    named = re.findall(r"`([\w/.]+\.py)::(\w+)`", PAGE)
    assert len(named) > 60
    for file, test in named:
        path = ROOT / (file if file.startswith("tests/") else f"tests/server/{file}")
        assert f"def {test}(" in path.read_text(), f"{file}::{test}"
