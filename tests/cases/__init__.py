"""Inputs that once failed. Each stands for its whole kind, and ``test_cases.py`` tries all of them.

A module of this package has a function for each of its cases, with ``@case("NUMBER_NAME")``. ``files/`` has recordings
that cannot be made here: the synthetic sample clips in the formats of other programs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Check = Callable[[Path, pytest.FixtureRequest], None]
FILES = Path(__file__).parent / "files"
CASES: dict[str, Check] = {}


def case(name: str) -> Callable[[Check], Check]:
    """Add a function to ``CASES``. It gets an empty folder, and the request, from which it takes other fixtures."""

    def add(check: Check) -> Check:
        assert name not in CASES, name
        CASES[name] = check
        return check

    return add
