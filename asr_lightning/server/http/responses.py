"""What a route may answer, for the OpenAPI description."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from asr_lightning.server.http.problems import CODES, MEDIA_TYPE

AnswerShape = type[BaseModel] | Mapping[str, Mapping[str, object]] | None
"""A shape, or the schema of each media type; None for an answer without a body."""


def answers(*codes: str, **success: AnswerShape) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route.

    Args:
        codes: Problems of ``problems.CODES`` that the route answers with, besides those of every route.
        success: Shapes of the answers by status, such as ``s200=Model``, ``s204=None`` or ``s200={"text/plain": …}``.
    """
    responses: dict[int | str, dict[str, Any]] = {}
    for name, shape in success.items():
        responses[int(name[1:])] = {"description": "Done", **_described(shape)}
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for code in ("unauthorized", "forbidden", "forbidden_origin", *codes):
        status, title = CODES[code]
        response = responses.get(status, {})
        before = f"{response['description']}; " if response else ""
        content = {**response.get("content", {}), **problem}
        responses[status] = {**response, "description": f"{before}`{code}`: {title}", "content": content}
    return responses


def _described(shape: AnswerShape) -> dict[str, object]:
    if shape is None:
        return {}
    if isinstance(shape, Mapping):
        return {"content": {media_type: {"schema": schema} for media_type, schema in shape.items()}}
    return {"model": shape}


TEXT = {"text/plain": {"type": "string"}}
BINARY = {"type": "string", "format": "binary"}
