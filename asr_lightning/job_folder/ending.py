"""How a trainer's exception is told to whoever waits for the job: a code, and a line that shows nothing of the host."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asr_lightning.durable.files import FULL
from asr_lightning.errors import DataError

Error = dict[str, Any]

FULL_TEXTS = ("no space left on device", "disk quota exceeded", "file too large", "(os error 28)", "(os error 122)")
OOM_TEXTS = (
    "out of memory",  # CUDA and MPS
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory: you tried to allocate",
    "unable to allocate",  # NumPy
    "cublas_status_alloc_failed",
)
ADVICE = "choose a smaller model, or run the server where more memory is free"
LONGEST = 500
LONGEST_LIST = 4000  # of a message that lists recordings


class CancelledError(Exception):
    """The job's cancel flag was seen."""


class ExportVerificationError(RuntimeError):
    """What was packed is not what was trained."""


def error_of(error: BaseException, job: Path) -> Error:
    """The ``error`` of ``exit.json``.

    Args:
        error: What ended the trainer.
        job: The job's folder, left out of the message.
    """
    code, message, param = _told(list(_chain(error)), job)
    return {"code": code, "message": message, "param": param}


def _told(errors: list[BaseException], job: Path) -> tuple[str, str, str | None]:
    """Code, message and parameter: what lies beneath counts, since libraries wrap a full disk in what they like."""
    if any(isinstance(error, CancelledError) for error in errors):
        return "cancelled", "cancelled", None
    if any(is_full(error) for error in errors):
        return "disk_full", "the server's disk is full: free some space, then resume the job", None
    if any(is_oom(error) for error in errors):
        return "oom", f"the model and its batches need more memory than there is: {ADVICE}", "model"
    first = errors[0]
    if isinstance(first, ExportVerificationError):
        return "export_verification_failed", one_line(str(first), job), None
    if any(isinstance(error, DataError) for error in errors):
        return "dataset_invalid", one_line(str(first), job, LONGEST_LIST), "data"
    text = one_line(str(first), job)
    return "internal", f"{type(first).__name__}: {text}" if text else type(first).__name__, None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it was raised from or during."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def is_full(error: BaseException) -> bool:
    """Whether ``error`` says that no more can be written."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(text in str(error).lower() for text in FULL_TEXTS)  # safetensors, torch and zip have errors of their own


def is_oom(error: BaseException) -> bool:
    """Whether ``error`` says that memory is used up, on the device or off it."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in OOM_TEXTS)


def one_line(text: str, job: Path, longest: int = LONGEST) -> str:
    """``text`` on one line, without control characters, and with no path from outside the job's folder."""
    text = text.replace(f"{job}/", "").replace(str(job), ".")
    text = re.sub(r"(?<![\w.:/])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\":,]+[/\\])*([^\s/\\'\":,]+)", r"\1", text)
    lines = [line.strip() for line in text.splitlines()]
    text = "; ".join(line for line in lines if line)
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"
