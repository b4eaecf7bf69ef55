"""Why a job failed: a code and one line that clients can see, made of the exception that ended a trainer."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from asr_lightning.durable.files import FULL
from asr_lightning.errors import DataError, missing_extra

FULL_TEXTS = (
    "no space left on device",
    "disk quota exceeded",
    "file too large",
    "(os error 28)",
    "(os error 122)",
    "inline_container.cc",  # torch.save, which raises its own error in the place of the file's
)
OOM_TEXTS = (
    "out of memory",  # CUDA and MPS
    "can't allocate memory",  # DefaultCPUAllocator
    "not enough memory: you tried to allocate",
    "unable to allocate",  # NumPy
    "cublas_status_alloc_failed",
)
ADVICE = "choose a smaller model, or run the server where more memory is free"
MAX_CHARS = 500
MAX_CHARS_DATA = 4000  # for a message that lists recordings


@dataclass(frozen=True)
class Failure:
    """Why a job failed. This is the ``error`` of JSON files and HTTP answers.

    Attributes:
        code: The kind of failure, for programs. Codes are stable.
        message: What happened and what to do, for people.
        param: The field of the request that caused it; None if no field did.
    """

    code: str
    message: str
    param: str | None = None

    def as_dict(self) -> dict[str, str | None]:
        """The failure as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object) -> Failure:
        """The inverse of ``as_dict``; ``UNKNOWN`` if ``document`` gives no reason."""
        if not isinstance(document, dict) or not isinstance(document.get("code"), str):
            return UNKNOWN
        param = document.get("param")
        message = document.get("message")
        return cls(document["code"], str(message or ""), param if isinstance(param, str) else None)


UNKNOWN = Failure("internal", "the worker ended without a reason: its log has more")
CANCELLED = Failure("cancelled", "cancelled")
AGAIN = ("interrupted", "cancelled")
"""Codes of a training that was stopped from outside: the server starts another attempt."""


class CancelledError(Exception):
    """The user cancelled the job."""


class ExportVerificationError(RuntimeError):
    """The packed model differs from the trained one."""


def failure_of(error: BaseException, job: Path) -> Failure:
    """What clients may see of the exception that ended a trainer.

    Libraries raise errors of their own on a full disk, so the whole chain of exceptions is searched for known causes.

    Args:
        error: The exception.
        job: The job's folder, whose path is left out of the message.
    """
    errors = list(_chain(error))
    if any(isinstance(each, CancelledError) for each in errors):
        return CANCELLED
    if full_disk_of(error):
        return Failure("disk_full", "the server's disk is full: free some space, then resume the job")
    if lack_of_memory_of(error):
        return Failure("oom", f"the model and its batches need more memory than there is: {ADVICE}", "model")
    if isinstance(error, ExportVerificationError):
        return Failure("export_verification_failed", one_line(str(error), job))
    if any(isinstance(each, DataError) for each in errors):
        return Failure("dataset_invalid", one_line(str(error), job, MAX_CHARS_DATA), "data")
    error = missing_extra(error, "this model") or error
    kind, text = type(error).__name__, one_line(str(error), job)
    return Failure("internal", f"{kind}: {text}" if text else kind)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and the exceptions that it was raised from or during."""
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def full_disk_of(error: BaseException) -> BaseException | None:
    """The first of ``error`` and the exceptions that it was raised from or during to say that a disk is full."""
    return next((each for each in reversed(list(_chain(error))) if is_full(each)), None)


def lack_of_memory_of(error: BaseException) -> BaseException | None:
    """The first of ``error`` and the exceptions that it was raised from or during to say that memory is used up."""
    return next((each for each in reversed(list(_chain(error))) if is_oom(each)), None)


def is_full(error: BaseException) -> bool:
    """Whether ``error`` says that a disk, a quota or a file is full."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(text in str(error).lower() for text in FULL_TEXTS)  # safetensors, torch and zip have errors of their own


def is_oom(error: BaseException) -> bool:
    """Whether ``error`` says that memory is used up, on the host or on the device."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in OOM_TEXTS)


def one_line(text: str, job: Path, max_chars: int = MAX_CHARS) -> str:
    """``text`` on one line, without control characters and without paths that lead out of the job's folder."""
    text = text.replace(f"{job}/", "").replace(str(job), ".")
    text = re.sub(r"(?<![\w.:/])(?:~|[A-Za-z]:)?[/\\](?:[^\s/\\'\":,]+[/\\])*([^\s/\\'\":,]+)", r"\1", text)
    lines = [line.strip() for line in text.splitlines()]
    text = "; ".join(line for line in lines if line)
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
