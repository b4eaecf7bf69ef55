"""Errors as ``application/problem+json`` (RFC 9457). Each has a code that never changes; its text may change."""

from __future__ import annotations

import errno
import logging
import secrets
import sqlite3
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from asr_lightning.durable.files import FULL
from asr_lightning.job_folder.spec import SpecError
from asr_lightning.server.engine import errors
from asr_lightning.server.engine.states import ACTIVE

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 30
DISK_FULL = "the server's disk is full, or cannot be written: free some space, or delete old jobs"
DISK_ERRNOS = FULL | {errno.EROFS, errno.EIO}

CODES: dict[str, tuple[int, str]] = {
    "bad_request": (400, "the request is malformed"),
    "unauthorized": (401, "a token is needed"),
    "forbidden": (403, "the role of this token does not allow it"),
    "forbidden_origin": (403, "this Host or Origin is not allowed"),
    "not_found": (404, "there is no such thing"),
    "method_not_allowed": (405, "this path does not take this method"),
    "timeout": (408, "the request's body came too slowly"),
    "busy": (409, "another job is active, or the queue is full"),
    "not_finished": (409, "not finished yet"),
    "wrong_state": (409, "the job's state does not allow it"),
    "purged": (410, "it was deleted"),
    "artifact_damaged": (410, "the file is lost, or is no longer what the training wrote"),
    "too_large": (413, "the request is too large"),
    "unsupported_media": (415, "this kind of content is not taken"),
    "invalid_parameter": (422, "a parameter is unknown, missing or out of range"),
    "idempotency_conflict": (422, "this Idempotency-Key was used for another request"),
    "model_not_allowed": (422, "this base model is not on the list"),
    "dataset_invalid": (422, "the data set has errors"),
    "quota_exceeded": (429, "this name has as many jobs as it may"),
    "internal": (500, "internal error"),
    "unavailable": (503, "not available at the moment"),
    "disk_full": (507, "the server's disk is full"),
    "quota_bytes": (507, "this name holds as many bytes as it may"),
}
"""Status and title by code; pinned by a test."""

ENGINE_ERRORS = (
    errors.NoSuchJobError, errors.BusyError, errors.WrongStateError, errors.KeyConflictError, errors.DiskFullError,
    errors.QuotaError,
)  # fmt: skip
BY_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media"}


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """An answer that reports an error.

    Args:
        code: One of ``CODES``.
        detail: What happened and what to do, for people.
        headers: Headers to add to the answer.
        extra: Further members of the JSON object, such as ``param`` or ``training_id``.
    """

    def __init__(self, code: str, detail: str, headers: Mapping[str, str] | None = None, **extra: object) -> None:
        super().__init__(detail)
        self.code, self.detail, self.headers, self.extra = code, detail, dict(headers or {}), extra

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        status, title = CODES[self.code]
        content = {"type": "about:blank", "title": title, "status": status, "code": self.code, "detail": self.detail}
        headers = dict(self.headers)
        if self.code in ("busy", "unavailable"):
            headers.setdefault("Retry-After", str(RETRY_AFTER_S))
        return JSONResponse({**content, **self.extra}, status, headers, MEDIA_TYPE)


def invalid(param: str, detail: str) -> Problem:
    """The problem of a parameter that is unknown, missing or out of range. Both texts may quote the client."""
    # JSON may hold half of a surrogate pair.
    param, detail = (text.encode("utf-8", "replace").decode() for text in (param, detail))
    return Problem("invalid_parameter", detail, param=param)


def busy(current: str | None) -> Problem:
    """The problem that another job is active, or that the queue is full."""
    detail = f"job {current} is active: wait for it, or cancel it" if current else "the queue is full: try again later"
    return Problem("busy", detail, training_id=current)


def problem_of(error: Exception) -> Problem:
    """The problem that reports ``error``; an unexpected error becomes an incident."""
    match error:
        case Problem():
            return error
        case errors.NoSuchJobError():
            return Problem("not_found", "there is no such job")
        case errors.BusyError():
            return busy(error.current)
        case errors.QuotaError():
            return _quota(error)
        case errors.WrongStateError():
            return _wrong_state(error.job.id, error.job.state)
        case errors.KeyConflictError():
            return Problem("idempotency_conflict", "this Idempotency-Key came with another request: use a new key")
        case SpecError():
            return invalid(error.param, str(error))
        case errors.DiskFullError():
            return Problem("disk_full", DISK_FULL)
        case OSError() if error.errno in DISK_ERRNOS:
            return _disk(error)
        case sqlite3.OperationalError() if any(word in str(error) for word in ("disk", "readonly")):
            return _disk(error)
    return incident(error)


def _quota(error: errors.QuotaError) -> Problem:
    def problem(code: str, text: str, headers: Mapping[str, str] | None = None) -> Problem:
        return Problem(code, text, headers, quota=error.name, limit=error.limit, used=error.used)

    if error.name == "max_bytes":
        text = (
            f"this does not fit: your jobs and uploads hold {error.used} of the {error.limit} bytes that they may: "
            "delete old ones, or send less"
        )
        return problem("quota_bytes", text)
    if error.name == "max_queued":
        text = f"your jobs that wait or run: {error.used} of at most {error.limit}. Wait for one to end, or cancel one"
        return problem("quota_exceeded", text, {"Retry-After": str(RETRY_AFTER_S)})
    text = f"your jobs: {error.used} of at most {error.limit}. Delete old ones"
    return problem("quota_exceeded", text)


def _disk(error: Exception) -> Problem:
    logger.error("the disk: %s", error)
    return Problem("disk_full", DISK_FULL)


def _wrong_state(job_id: str, state: str) -> Problem:
    if state in ACTIVE:
        return Problem("busy", f"the job is {state}: wait for it, or cancel it", training_id=job_id, state=state)
    return Problem("wrong_state", f"the job is {state}, which does not allow this", state=state)


def incident(error: Exception) -> Problem:
    """The problem of an unexpected error: the trace goes to the log, under a number that the client gets."""
    number = secrets.token_hex(4)
    logger.error("incident %s", number, exc_info=error)
    return Problem("internal", f"the server's log says more under incident {number}", incident=number)


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error as a problem."""
    for kind in (Problem, SpecError, *ENGINE_ERRORS):
        app.add_exception_handler(kind, _expected)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(ClientDisconnect, _disconnected)


async def _expected(_: Request, error: Exception) -> Response:
    return problem_of(error).response()


async def _validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = str(first["loc"][-1]) if first["loc"] else "request"
    return invalid(name, f"{name}: {first['msg']}").response()


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = BY_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "invalid_parameter")
    return Problem(code, CODES[code][1], headers=error.headers).response()


async def _disconnected(_: Request, __: Exception) -> Response:
    """An answer that nobody reads, since the client closed the connection."""
    return Problem("timeout", "the connection was closed").response()
