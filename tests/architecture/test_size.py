"""Functions and files stay below maximum sizes."""

from __future__ import annotations

import ast
import statistics
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "asr_lightning"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULE_CAP = 180


def functions() -> dict[str, int]:
    """Return the number of lines of every function."""
    return {
        f"{path.relative_to(PACKAGE)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    }


def test_functions_fit_a_screen() -> None:
    sizes = functions()
    print(f"functions: {len(sizes)}, median {statistics.median(sizes.values())} lines")
    assert {name: size for name, size in sizes.items() if size > 60} == {}
    assert statistics.median(sizes.values()) <= 12
    assert statistics.quantiles(sizes.values(), n=10)[-1] <= 40


def test_files_fit_a_head() -> None:
    sizes = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    print(f"files: {len(sizes)}, median {statistics.median(sizes.values())} lines")
    assert {name: size for name, size in sizes.items() if size > 300} == {}
    assert statistics.median(sizes.values()) <= 180
    assert sizes["module.py"] <= MODULE_CAP
