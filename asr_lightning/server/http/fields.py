"""Turn the fields of a request into a job's specification: typed values, each looked up or within bounds."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from fastapi import Request

from asr_lightning.job_folder.spec import DEFAULT_EPOCHS, JobSpec
from asr_lightning.server.http.languages import CODES
from asr_lightning.server.http.models import Catalogue
from asr_lightning.server.http.problems import Problem, invalid

PREDECESSOR = frozenset({"base_model_name", "epochs", "language"})
V1 = frozenset({"model", "epochs", "language", "seed"})
"""The fields of a request, in the API of this server's predecessor and in v1."""
KEY = re.compile(r"[!-~]{1,255}")
JSON_BYTES = 64 << 10
INTEGER = re.compile(r"[0-9]{1,10}")


def spec(fields: Mapping[str, object], models: Catalogue, name: str = "model") -> JobSpec:
    """The specification in the ``fields`` of a form or of JSON; the field ``name`` holds the model.

    Raises:
        Problem: A field is missing, malformed or out of range, or the model is not on the list.
        SpecError: A field is out of range.
    """
    model = fields.get(name)
    if not isinstance(model, str) or not model:
        raise invalid(name, "name a base model: GET /v1/models lists them")
    numbers = {key: number(key, fields[key]) for key in ("epochs", "seed") if fields.get(key) not in (None, "")}
    resolved = models.resolve(model, name)
    numbers.setdefault("epochs", models.epochs.get(resolved, DEFAULT_EPOCHS))
    return JobSpec(model=resolved, language=language(fields.get("language"), resolved), **numbers)


def number(name: str, value: object) -> int:
    """The whole number that a field holds.

    Raises:
        Problem: It holds something else.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or not INTEGER.fullmatch(str(value)):
        raise invalid(name, f"{name} must be a whole number")
    return int(value)


def language(value: object, model: str) -> str | None:
    """The code of a language; None if the field is empty.

    Raises:
        Problem: There is no such language.
    """
    if value is None or value == "":
        return None
    code = value.lower() if isinstance(value, str) else ""
    # MMS knows 1162 languages by codes of three letters.
    if code in CODES or (model.startswith("mms") and re.fullmatch("[a-z]{3}", code)):
        return code
    raise invalid("language", "language must be a code such as en or de")


def idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key of a request, by which a retry finds the job of the first try.

    Raises:
        Problem: The key is malformed.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "an Idempotency-Key has 1 to 255 printable ASCII characters")
    return key


async def json_object(request: Request, names: frozenset[str]) -> dict[str, object]:
    """The JSON object in the body of a request.

    Raises:
        Problem: The body is no object, or has members other than ``names``.
    """
    try:
        document = json.loads(await small_body(request) or b"{}")
    except (ValueError, RecursionError) as error:
        raise invalid("body", "the body is no JSON object") from error
    if not isinstance(document, dict):
        raise invalid("body", "the body is no JSON object")
    for name in document:
        if name not in names:
            raise invalid(name[:64], f"members are {', '.join(sorted(names))}")
    return document


async def small_body(request: Request) -> bytes:
    """The body of a request with JSON, on a route that may also take large bodies of other kinds.

    Raises:
        Problem: The body is too large for memory.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_BYTES:
            raise Problem("too_large", f"at most {JSON_BYTES} bytes of JSON are taken")
    return bytes(body)


def is_json(request: Request) -> bool:
    """Whether the body of a request is JSON."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
