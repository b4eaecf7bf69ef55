"""The application: every route behind one guard."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, Response

from asr_lightning import __version__
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http import (
    downloads,
    jobs,
    page,
    problems,
    schemas,
    seed,
    streams,
    system,
    tensorboard_proxy,
    upload_routes,
    uploads,
)
from asr_lightning.server.http.context import Context
from asr_lightning.server.http.feed import Feed
from asr_lightning.server.http.guard import Guard
from asr_lightning.server.http.models import Catalogue, catalogue
from asr_lightning.server.http.settings import ServerSettings
from asr_lightning.server.http.tensorboard import TensorBoard

TITLE = "asr_lightning training server"


def create_app(
    engine: Engine,
    settings: ServerSettings | None = None,
    models: Catalogue | None = None,
    tensorboard: TensorBoard | None = None,
) -> FastAPI:
    """The application over ``engine``, which the caller starts and stops.

    Args:
        engine: The jobs; its ``models`` should be ``models.sources``.
        settings: The operator's; the defaults serve this machine only, without a token.
        models: What may be asked for; the cards of this package without.
        tensorboard: None: none is offered.
    """
    settings = settings or ServerSettings()
    app = FastAPI(title=TITLE, version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
                  redirect_slashes=False)  # fmt: skip
    feed = Feed(engine, settings.streams, settings.poll_s)
    app.state.context = Context(
        engine, settings, models or catalogue(), uploads.Uploads(engine, settings), feed, tensorboard
    )
    for module in (page, seed, jobs, streams, downloads, upload_routes, system, tensorboard_proxy):
        app.include_router(module.router)
    problems.install(app)
    app.add_middleware(Guard, settings=settings)
    _publish(app)
    return app


def _publish(app: FastAPI) -> None:
    """Offer the OpenAPI description, as behind the token as any other data."""

    async def openapi() -> Response:
        """This description."""
        return JSONResponse(app.openapi())

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]


def _describe(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, routes=app.routes)
        parts = found.setdefault("components", {})
        parts.setdefault("schemas", {})["Problem"] = schemas.Problem.model_json_schema()
        parts["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        found["security"] = [{"token": []}, {}]
        found["paths"]["/healthz"]["get"]["security"] = []
        _drop_validation_errors(found)
        app.openapi_schema = found
    return app.openapi_schema


def _drop_validation_errors(found: dict[str, Any]) -> None:
    """Take out FastAPI's own shape of a 422, which problems replace."""
    for path in found["paths"].values():
        for operation in path.values():
            content = operation["responses"].get("422", {}).get("content", {})
            if "HTTPValidationError" in str(content.get("application/json", "")):
                del content["application/json"]
                content[problems.MEDIA_TYPE] = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for name in ("HTTPValidationError", "ValidationError"):
        found["components"]["schemas"].pop(name, None)
