"""A model hub on this machine, as ``huggingface_hub`` 2.4 calls it: repositories, large files and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

TOKEN = "hf_a_token_with_write_access"


@dataclass
class Repository:
    """A repository: its visibility, its files and the number of its commits."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0


class Hub:
    """Keeps repositories. ``visibility`` overrides what a client asks for, as a rule of an organization may."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.visibility: str | None = None
        self.fails_at: str | None = None
        self.asked: list[str] = []
        name = "/api/models/{owner}/{name}"
        self.app = Starlette(
            routes=[
                Route("/api/repos/create", self.create, methods=["POST"]),
                Route("/api/validate-yaml", self.validate_yaml, methods=["POST"]),
                Route(f"{name}/preupload/main", self.preupload, methods=["POST"]),
                Route(f"{name}/commit/main", self.commit, methods=["POST"]),
                Route(f"{name}/revision/main", self.info),
                Route(name, self.info),
                Route("/{owner}/{name}.git/info/lfs/objects/batch", self.batch, methods=["POST"]),
                Route("/large/{oid}", self.put, methods=["PUT"]),
            ]
        )
        self.app.add_middleware(_Door, hub=self)

    def repository(self, request: Request) -> Repository | None:
        """The repository that a path names."""
        return self.repositories.get(f"{request.path_params['owner']}/{request.path_params['name']}")

    async def create(self, request: Request) -> Response:
        """Make a repository."""
        asked = await request.json()
        if asked["organization"] != "ada":
            return JSONResponse({"error": "You don't have the rights to create a model there"}, 403)
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.repositories:
            known = f"{request.base_url}{name}"
            return JSONResponse({"error": "You already created this model repo", "url": known}, 409)
        self.repositories[name] = Repository((self.visibility or asked["visibility"]) == "private")
        return JSONResponse({"url": f"{request.base_url}{name}"})

    async def validate_yaml(self, request: Request) -> Response:
        """Check the metadata of a card."""
        content = (await request.json())["content"]
        metadata = yaml.safe_load(content.split("---\n")[1])
        errors = [] if {"license", "pipeline_tag"} <= set(metadata) else [{"message": "it lacks fields"}]
        return JSONResponse({"errors": errors, "warnings": []}, 400 if errors else 200)

    async def info(self, request: Request) -> Response:
        """Describe a repository."""
        found = self.repository(request)
        if found is None:
            return JSONResponse({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
        return JSONResponse({"id": "x", "sha": "0" * 40, "private": found.private, "siblings": []})

    async def preupload(self, request: Request) -> Response:
        """Say which files are large."""
        files = (await request.json())["files"]
        modes = [{"path": file["path"], "uploadMode": mode_of(file["path"]), "shouldIgnore": False} for file in files]
        return JSONResponse({"files": modes})

    async def batch(self, request: Request) -> Response:
        """Say where large files are put."""
        objects = [
            {**each, "actions": {"upload": {"href": f"{request.base_url}large/{each['oid']}"}}}
            for each in (await request.json())["objects"]
        ]
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def put(self, request: Request) -> Response:
        """Take a large file."""
        content = await request.body()
        if hashlib.sha256(content).hexdigest() != request.path_params["oid"]:
            return JSONResponse({"error": "wrong hash"}, 400)
        self.large[request.path_params["oid"]] = content
        return Response()

    async def commit(self, request: Request) -> Response:
        """Take all files at once."""
        repository = self.repository(request)
        assert repository is not None
        new = {}
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                new[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                new[value["path"]] = self.large[value["oid"]]
        repository.files.update(new)
        repository.commits += 1
        return JSONResponse({"commitUrl": f"{request.base_url}ada/x/commit/{'1' * 40}", "commitOid": "1" * 40})


def mode_of(path: str) -> str:
    """How the hub stores a file."""
    return "lfs" if path.endswith((".safetensors", ".bin", ".nemo")) else "regular"


class _Door:
    """Asks for the token, and fails where a test wants it."""

    def __init__(self, app: object, hub: Hub) -> None:
        self.app, self.hub = app, hub

    async def __call__(self, scope: dict, receive: object, send: object) -> None:
        if scope["type"] == "http":
            self.hub.asked.append(scope["path"])
            sent = dict(scope["headers"]).get(b"authorization", b"").decode()
            if sent != f"Bearer {TOKEN}" and not scope["path"].startswith(("/large", "/api/validate-yaml")):
                await JSONResponse({"error": "Invalid username or password."}, 401)(scope, receive, send)
                return
            if self.hub.fails_at is not None and self.hub.fails_at in scope["path"]:
                await JSONResponse({"error": "not allowed here"}, 403)(scope, receive, send)
                return
        await self.app(scope, receive, send)


@contextmanager
def running(hub: Hub) -> Iterator[str]:
    """The address of ``hub``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(hub.app, log_level="warning", ws="none", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
