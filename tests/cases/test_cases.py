"""Tries every case of the modules beside this file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import tests.cases

for module in iter_modules(tests.cases.__path__):
    if not module.name.startswith("test_"):
        import_module(f"tests.cases.{module.name}")


@pytest.mark.parametrize("name", sorted(tests.cases.CASES))
def test_case(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    tests.cases.CASES[name](tmp_path, request)
