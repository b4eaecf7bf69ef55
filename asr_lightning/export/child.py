"""Calls a function in a process of its own, with a time limit: a library that aborts or hangs stops nothing else.

whisper.cpp aborts where it should raise, and converters load whole models into memory that is given back only when
their process ends. Request and result are JSON. Loads no torch.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asr_lightning.errors import DataError, MissingExtraError, ModelError, OptionError

KINDS = {kind.__name__: kind for kind in (DataError, MissingExtraError, ModelError, OptionError, ValueError)}
"""Errors that a user can correct; they cross the border as they are."""
LAST_LINES = 5


class ChildError(RuntimeError):
    """The process ended without a result: it raised, was killed by a signal, or took too long."""


def call(function: str, request: Mapping[str, object], seconds: float, threads: int | None = None) -> Any:
    """Return what ``function`` returns for ``request``.

    Args:
        function: ``module:name`` of a function of one JSON object, which returns a JSON value.
        request: The object.
        seconds: Time limit in seconds.
        threads: Number of threads of numerical libraries; None leaves it to them.

    Raises:
        ChildError: There is no result; the message has the last lines that the process wrote.
        ValueError: The function has refused the request.
    """
    with tempfile.TemporaryDirectory(prefix="asr-lightning-") as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "result.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-m", "asr_lightning.export.child", function, str(asked), str(answered)]
        environment = dict(os.environ) | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        try:
            ended = subprocess.run(
                command, timeout=seconds, env=environment, stdin=subprocess.DEVNULL, capture_output=True
            )
        except subprocess.TimeoutExpired as error:
            raise ChildError(f"it took longer than {seconds:g} s, and was stopped") from error
        if not answered.is_file():
            raise ChildError(f"{_ending(ended.returncode)}: {_last_lines(ended.stderr)}")
        result = json.loads(answered.read_text(encoding="utf-8"))
    if "error" in result:
        kind = KINDS.get(result["kind"], ChildError)
        raise kind(result["error"])
    return result["value"]


def _ending(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    try:
        return f"its process was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"its process was killed by signal {-status}"


def _last_lines(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:]) or "it wrote nothing"


def main(arguments: list[str]) -> None:
    """Call the function in this process, and write its result or its error."""
    function, asked, answered = arguments
    module, _, name = function.partition(":")
    request = json.loads(Path(asked).read_text(encoding="utf-8"))
    try:
        result: dict[str, Any] = {"value": getattr(importlib.import_module(module), name)(request)}
    except ValueError as error:
        result = {"error": str(error), "kind": type(error).__name__}
    unfinished = Path(answered).with_suffix(".new")
    unfinished.write_text(json.dumps(result), encoding="utf-8")
    unfinished.replace(answered)


if __name__ == "__main__":
    main(sys.argv[1:])
