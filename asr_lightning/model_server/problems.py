"""Errors in the JSON that OpenAI's clients understand."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse

INVALID = "invalid_request_error"


class Refusal(Exception):  # noqa: N818 - as the training server's Problem, it is an answer
    """An answer other than success.

    Attributes:
        status: Status of HTTP.
        code: What is wrong, for programs.
        param: Field of the request that is wrong; None if none is.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, dict(headers or {})

    @property
    def body(self) -> dict[str, object]:
        """The answer as a JSON object."""
        kind = INVALID if self.status < 500 else "server_error"
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.body, self.status, self.headers)


def wrong(param: str, message: str) -> Refusal:
    """The answer to a field with an invalid value."""
    return Refusal(400, "invalid_value", message, param)
