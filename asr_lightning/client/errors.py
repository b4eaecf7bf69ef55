"""What can go wrong with a server, each with a remedy. Standard library only."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from typing import Any

LONGEST = 2000  # characters of a server's message that are shown

REMEDIES = {
    "unauthorized": "set ASR_SERVER_TOKEN to the token that the server printed when it started",
    "forbidden_origin": "start the server with --allow_host and the name that you reach it by",
    "busy": "wait for the running job, or cancel it",
    "too_large": "leave recordings out, or cut long ones",
    "disk_full": "delete finished jobs on the server: python -m asr_lightning remote delete ID",
    "model_not_allowed": "python -m asr_lightning remote models lists the names",
    "idempotency_conflict": "give another --key; remote status lists the jobs, that of this one among them",
    "not_finished": "python -m asr_lightning remote status ID shows how far it is",
}


class ServerError(ValueError):
    """The server refused.

    Attributes:
        code: Stable name of the reason, such as ``busy`` or ``dataset_invalid``.
        message: The server's sentence, without control characters.
        status: HTTP status.
        details: The whole problem document, such as its ``issues``.
    """

    def __init__(self, code: str, message: str, status: int, details: Mapping[str, Any] | None = None) -> None:
        self.code, self.message, self.status, self.details = code, printable(message), status, dict(details or {})
        remedy = REMEDIES.get(code)
        super().__init__(f"{self.message} ({code}, HTTP {status})" + (f"; {remedy}" if remedy else ""))


class ConnectionFailedError(ConnectionError):
    """No answer after all retries; the message names the address, the cause and the remedy."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"no answer from {url} ({cause}); check that the server runs, that the address and port are right, and "
            "that no firewall is between. A job that was accepted goes on without this connection"
        )


class DownloadError(OSError):
    """What arrived is not what the server announced."""


def printable(text: str) -> str:
    """``text`` on one line, not too long, and without what a terminal would obey."""
    return visible(" ".join(text.split()))[:LONGEST]


def visible(text: str) -> str:
    """``text`` with a mark for each control character: a server is not trusted with a terminal."""
    return "".join("�" if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char for char in text)


def problem(status: int, body: bytes) -> ServerError:
    """The error that an answer with ``status`` stands for, from problem+json or from anything else."""
    try:
        found = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        found = {"detail": body[:200].decode("utf-8", "replace") or "the answer is empty"}
    message = str(found.get("detail") or found.get("message") or found.get("title") or "the server gave no reason")
    return ServerError(printable(str(found.get("code") or f"http_{status}")), message, status, found)
