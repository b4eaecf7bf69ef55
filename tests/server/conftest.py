"""The server's tests run in one environment, since its libraries are the same in both; the trainer's run in each."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE) and not item.path.is_relative_to(HERE / "trainer"):
            item.add_marker(pytest.mark.once)
