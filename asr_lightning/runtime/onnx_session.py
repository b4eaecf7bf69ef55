"""Opens graphs in onnxruntime. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime

from asr_lightning.errors import ModelError


def open_session(path: Path, threads: int) -> Any:
    """Open the graph in ``path`` on the CPU with ``threads`` threads.

    Raises:
        ModelError: There is no such file, or onnxruntime cannot read it.
    """
    if not path.is_file():
        raise ModelError(f"{path} is missing: copy the whole folder again")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no other base class
        raise ModelError(f"{path} cannot be read ({error}): copy it again, or export the model again") from error
