"""The FastAPI application, with one guard in front of all routes."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asr_lightning import __version__
from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http import (
    downloads,
    jobs,
    page,
    predecessor,
    problems,
    schemas,
    streams,
    system,
    tensorboard_proxy,
    upload_routes,
    uploads,
)
from asr_lightning.server.http.audit import AuditLog
from asr_lightning.server.http.callers import Callers
from asr_lightning.server.http.context import Context
from asr_lightning.server.http.feed import Feed
from asr_lightning.server.http.guard import Guard
from asr_lightning.server.http.models import Catalogue, catalogue
from asr_lightning.server.http.settings import ServerSettings
from asr_lightning.server.http.tensorboard import TensorBoard
from asr_lightning.server.http.tokens import TokenFile
from asr_lightning.server.http.visits import Recorder

TITLE = "asr_lightning training server"
OPENAPI = "/openapi.json"
ROUTES = (page, predecessor, jobs, streams, downloads, upload_routes, system, tensorboard_proxy)


def create_app(
    engine: Engine,
    settings: ServerSettings | None = None,
    models: Catalogue | None = None,
    tensorboard: TensorBoard | None = None,
) -> FastAPI:
    """The application that serves ``engine``, which the caller starts and stops.

    Args:
        engine: The job engine; its ``models`` should be ``models.sources``.
        settings: The operator's settings; the defaults serve only this machine, without a token.
        models: The models that clients may ask for; by default all models of this package.
        tensorboard: The TensorBoard to offer; None offers none.
    """
    settings = settings or ServerSettings()
    app = FastAPI(title=TITLE, version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
                  redirect_slashes=False)  # fmt: skip
    feed = Feed(engine, settings.streams, settings.poll_s)
    callers = Callers(settings, TokenFile(engine.home.path))
    app.state.context = Context(
        engine, settings, models or catalogue(), uploads.Uploads(engine, settings), feed, callers, tensorboard
    )
    for module in ROUTES:
        app.include_router(module.router)
    problems.install(app)
    paths = [route.path for module in ROUTES for route in module.router.routes if isinstance(route, Route)]
    recorder = Recorder(AuditLog(engine.home.path), [*paths, OPENAPI])
    app.add_middleware(Guard, settings=settings, callers=callers, recorder=recorder)
    _publish(app)
    return app


def _publish(app: FastAPI) -> None:
    """Offer the OpenAPI description, which needs the token as all other data does."""

    async def openapi() -> Response:
        """This description."""
        return JSONResponse(app.openapi())

    app.add_api_route(OPENAPI, openapi, include_in_schema=False)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]


def _describe(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        description = get_openapi(title=app.title, version=app.version, routes=app.routes)
        components = description.setdefault("components", {})
        components.setdefault("schemas", {})["Problem"] = schemas.Problem.model_json_schema()
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        description["security"] = [{"token": []}, {}]
        description["paths"]["/healthz"]["get"]["security"] = []
        _replace_validation_errors(description)
        app.openapi_schema = description
    return app.openapi_schema


def _replace_validation_errors(description: dict[str, Any]) -> None:
    """Replace FastAPI's own shape of a 422 answer by that of a problem."""
    for path in description["paths"].values():
        for operation in path.values():
            content = operation["responses"].get("422", {}).get("content", {})
            if "HTTPValidationError" in str(content.get("application/json", "")):
                del content["application/json"]
                content[problems.MEDIA_TYPE] = {"schema": {"$ref": "#/components/schemas/Problem"}}
    for name in ("HTTPValidationError", "ValidationError"):
        description["components"]["schemas"].pop(name, None)
