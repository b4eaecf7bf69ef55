"""From what a client wrote to a job's specification: typed, bounded scalars, each looked up or range-checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from fastapi import Request

from asr_lightning.job_folder.spec import DEFAULT_EPOCHS, JobSpec
from asr_lightning.server.http.languages import CODES
from asr_lightning.server.http.models import Catalogue
from asr_lightning.server.http.problems import Problem, invalid

SEED = frozenset({"base_model_name", "epochs", "language"})
V1 = frozenset({"model", "epochs", "language", "seed"})
KEY = re.compile(r"[!-~]{1,255}")
JSON_BYTES = 64 << 10
INTEGER = re.compile(r"[0-9]{1,10}")


def spec(fields: Mapping[str, object], models: Catalogue, name: str = "model") -> JobSpec:
    """The specification that ``fields`` of a form or of JSON stand for; the model's is called ``name``.

    Raises:
        Problem: A field is missing, malformed or out of range, or the model is not on the list.
        SpecError: A field is out of range.
    """
    model = fields.get(name)
    if not isinstance(model, str) or not model:
        raise invalid(name, "name a base model: GET /v1/models lists them")
    found = {key: number(key, fields[key]) for key in ("epochs", "seed") if fields.get(key) not in (None, "")}
    resolved = models.resolve(model, name)
    found.setdefault("epochs", models.epochs.get(resolved, DEFAULT_EPOCHS))
    return JobSpec(model=resolved, language=language(fields.get("language"), resolved), **found)


def number(name: str, value: object) -> int:
    """A whole number, written as such.

    Raises:
        Problem: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or not INTEGER.fullmatch(str(value)):
        raise invalid(name, f"{name} must be a whole number")
    return int(value)


def language(value: object, model: str) -> str | None:
    """The code of a language; None where none is named.

    Raises:
        Problem: It is not in the table.
    """
    if value is None or value == "":
        return None
    code = value.lower() if isinstance(value, str) else ""
    # MMS knows 1162 languages by codes of three letters.
    if code in CODES or (model.startswith("mms") and re.fullmatch("[a-z]{3}", code)):
        return code
    raise invalid("language", "language must be a code such as en or de")


def idempotency_key(request: Request) -> str | None:
    """The key that makes a retry the same request.

    Raises:
        Problem: It is malformed.
    """
    key = request.headers.get("idempotency-key")
    if key is not None and not KEY.fullmatch(key):
        raise invalid("Idempotency-Key", "an Idempotency-Key has 1 to 255 printable ASCII characters")
    return key


async def json_object(request: Request, names: frozenset[str]) -> dict[str, object]:
    """The object in the body of ``request``, with no other members than ``names``.

    Raises:
        Problem: It is none.
    """
    try:
        found = json.loads(await small_body(request) or b"{}")
    except (ValueError, RecursionError) as error:
        raise invalid("body", "the body is no JSON object") from error
    if not isinstance(found, dict):
        raise invalid("body", "the body is no JSON object")
    for name in found:
        if name not in names:
            raise invalid(name[:64], f"members are {', '.join(sorted(names))}")
    return found


async def small_body(request: Request) -> bytes:
    """The body, where a route also takes large ones that are no JSON.

    Raises:
        Problem: It is too large to be held in memory.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > JSON_BYTES:
            raise Problem("too_large", f"at most {JSON_BYTES} bytes of JSON are taken")
    return bytes(body)


def is_json(request: Request) -> bool:
    """Whether the body is JSON."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
