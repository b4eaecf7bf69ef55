"""``check-adapter``: test whether an adapter keeps the contract; prints a reason for every promise that it breaks."""

from __future__ import annotations

import argparse
import json
from typing import Any

from asr_lightning.errors import require_training


def parser() -> argparse.ArgumentParser:
    """The parser for ``check-adapter``."""
    options = argparse.ArgumentParser(prog="python -m asr_lightning check-adapter", description=__doc__)
    options.add_argument("adapter", help="class of the adapter, such as asr_lightning.adapters.toy.ToyAdapter")
    options.add_argument("--source", required=True, help="first argument of the adapter: a folder or a hub id")
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another argument of the adapter; VALUE as JSON or plain text",
    )
    return options


def run(command: str, arguments: list[str]) -> int:
    """Run all conformance tests; returns 1 if one fails."""
    options = parser().parse_args(arguments)
    require_training(command)
    from asr_lightning.adapters.saved import build, class_named
    from asr_lightning.conformance import check_adapter

    module, _, name = options.adapter.rpartition(".")
    adapter = class_named(module, name)
    init_args = dict(parse_setting(text) for text in options.set)
    failed = 0
    for result in check_adapter(lambda: build(adapter, options.source, init_args)):
        failed += not result.passed
        print(f"{'pass' if result.passed else 'FAIL'}  {result.name}{': ' + result.detail if result.detail else ''}")
    print(f"{failed} of the checks failed" if failed else "the adapter keeps the contract")
    return 1 if failed else 0


def parse_setting(text: str) -> tuple[str, Any]:
    """The name and the value of a ``NAME=VALUE``.

    Raises:
        ValueError: There is no ``=``.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--set takes NAME=VALUE, not {text!r}")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
