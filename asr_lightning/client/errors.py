"""Errors of the client, each with a remedy in its message. Standard library only."""

from __future__ import annotations

import json
import unicodedata
from typing import cast

from asr_lightning.client.answers import ProblemDetails

MAX_MESSAGE_CHARS = 2000
"""A longer message of the server is cut off."""

REMEDIES = {
    "unauthorized": "set ASR_SERVER_TOKEN to your token; without one, ask whoever runs the server",
    "forbidden_origin": "start the server with --allow_host and the name that you reach it by",
    "forbidden": "ask whoever runs the server for a token of another role",
    "busy": "wait for the running job, or cancel it",
    "too_large": "leave recordings out, or cut long ones",
    "disk_full": "delete finished jobs on the server: python -m asr_lightning remote delete ID",
    "quota_bytes": "delete finished jobs: python -m asr_lightning remote delete ID",
    "quota_exceeded": "python -m asr_lightning remote status lists your jobs",
    "model_not_allowed": "python -m asr_lightning remote models lists the names",
    "idempotency_conflict": "give another --key; remote status lists the jobs, that of this one among them",
    "artifact_damaged": "python -m asr_lightning remote status ID says more; delete the job, and train again",
    "not_finished": "python -m asr_lightning remote status ID shows how far it is",
}


class ServerError(ValueError):
    """The server refused a request.

    Attributes:
        code: Stable name of the reason, such as ``busy`` or ``dataset_invalid``.
        message: The server's explanation, without control characters.
        status: HTTP status.
        details: The whole answer, with more information such as ``issues``; empty if the server sent none.
    """

    def __init__(self, code: str, message: str, status: int, details: ProblemDetails | None = None) -> None:
        self.code, self.message, self.status = code, printable(message), status
        self.details: ProblemDetails = details or {}
        remedy = REMEDIES.get(code)
        super().__init__(f"{self.message} ({code}, HTTP {status})" + (f"; {remedy}" if remedy else ""))


class ConnectionFailedError(ConnectionError):
    """The server did not answer, after all retries; the message names the address, the cause and the remedy."""

    def __init__(self, url: str, cause: str) -> None:
        super().__init__(
            f"no answer from {url} ({cause}); check that the server runs, that the address and port are right, and "
            "that no firewall is between. A job that was accepted goes on without this connection"
        )


class DownloadError(OSError):
    """The downloaded data differ from what the server announced."""


def printable(text: str) -> str:
    """``text`` on one line, shortened if it is very long, with control characters replaced."""
    return visible(" ".join(text.split()))[:MAX_MESSAGE_CHARS]


def visible(text: str) -> str:
    """``text`` with a mark in place of each control character, so that a server cannot control the terminal."""
    return "".join("�" if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char for char in text)


def problem(status: int, body: bytes) -> ServerError:
    """The error for an answer with this HTTP ``status``, whether its body is problem+json or anything else."""
    try:
        details = json.loads(body)
    except ValueError:
        details = None
    if not isinstance(details, dict):
        details = {"detail": body[:200].decode("utf-8", "replace") or "the answer is empty"}
    texts = (details.get(name) for name in ("detail", "message", "title"))
    message = str(next(filter(None, texts), "the server gave no reason"))
    code = printable(str(details.get("code") or f"http_{status}"))
    return ServerError(code, message, status, cast(ProblemDetails, details))
