"""The routes of resumable uploads in the v1 API."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import JSONResponse, Response

from asr_lightning.server.http import admission, schemas
from asr_lightning.server.http.connections import peer_of
from asr_lightning.server.http.context import RequestContext
from asr_lightning.server.http.fields import json_object
from asr_lightning.server.http.problems import Problem, invalid
from asr_lightning.server.http.responses import BINARY, answers

router = APIRouter()

BODY: dict[str, object] = {
    "requestBody": {
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {"size": {"type": "integer", "minimum": 1, "description": "bytes, when known"}},
                    "additionalProperties": False,
                }
            }
        }
    }
}
RAW: dict[str, object] = {
    "requestBody": {"required": True, "content": {"application/octet-stream": {"schema": BINARY}}}
}


@router.post(
    "/v1/uploads",
    status_code=201,
    openapi_extra=BODY,
    responses=answers(
        "too_large", "invalid_parameter", "unavailable", "disk_full", "quota_bytes", "timeout", s201=schemas.Upload
    ),
)
async def create(request: Request, context: RequestContext) -> Response:
    """Begin a resumable upload."""
    size = (await json_object(request, frozenset({"size"}))).get("size")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise invalid("size", "size must be a number of bytes")
    upload = await context.uploads.create(
        size, client_of(request), context.caller.owner, partial(context.require_bytes, size or 1)
    )
    context.visit.subject = upload.path.name
    return JSONResponse(upload.view(), 201, {"Location": f"/v1/uploads/{upload.path.name}"})


def client_of(request: Request) -> str:
    """Who sends a request, as far as the server knows."""
    return peer_of(request.client.host) if request.client else ""


@router.get("/v1/uploads", responses=answers(s200=schemas.Uploads))
async def listing(context: RequestContext) -> Response:
    """The open uploads, the oldest first. An upload is deleted ten minutes after it was begun if no byte arrived, and
    six hours after its last byte.
    """
    uploads = [upload for upload in await context.uploads.listing() if context.caller.sees(upload.owner)]
    return JSONResponse({"data": [upload.view() for upload in uploads], "next": None})


@router.get("/v1/uploads/{upload_id}", responses=answers("not_found", s200=schemas.Upload))
async def get(context: RequestContext, upload_id: str) -> Response:
    """How many bytes of an upload have arrived."""
    return JSONResponse(context.upload(upload_id).view())


@router.put(
    "/v1/uploads/{upload_id}",
    openapi_extra=RAW,
    responses=answers(
        "not_found", "busy", "too_large", "unsupported_media", "invalid_parameter", "disk_full",
        "quota_bytes", "timeout", s200=schemas.Upload,
    ),
)  # fmt: skip
async def put(
    request: Request, context: RequestContext, upload_id: str, offset: Annotated[int, Query(ge=0)]
) -> Response:
    """Add the body at ``offset``, which must be the number of bytes received so far."""
    upload = context.upload(upload_id)
    quota = None
    if upload.size is None:  # an announced size was counted when the upload began
        await context.require_bytes(admission.announced(request))
        quota = await context.byte_quota()
    await context.uploads.append(upload, offset, request, quota)
    return JSONResponse(upload.view())


@router.delete("/v1/uploads/{upload_id}", status_code=204, responses=answers("not_found", "busy", s204=None))
async def delete(context: RequestContext, upload_id: str) -> Response:
    """Delete an upload."""
    upload = context.upload(upload_id)
    if upload.lock.locked():
        raise Problem("busy", "bytes are arriving", {"Retry-After": "1"}, received=upload.received)
    await context.uploads.discard(upload)
    return Response(status_code=204)
