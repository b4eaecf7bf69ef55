"""A stand-in for Modal's service, in memory, as far as the provider needs it. The real ``modal`` package uses it.

It keeps what the client sends. Only Modal itself can show that an image builds and that a container runs.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from grpclib import GRPCError, Status
from grpclib.server import Server
from modal_proto import api_pb2 as api
from modal_proto.api_grpc import ModalClientBase

SUCCESS = api.GenericResult(status=api.GenericResult.GENERIC_STATUS_SUCCESS)
TERMINATED = api.GenericResult(status=api.GenericResult.GENERIC_STATUS_TERMINATED, exception="cancelled")
TIMED_OUT = api.GenericResult(status=api.GenericResult.GENERIC_STATUS_TIMEOUT, exception="too long")
FAILED = api.GenericResult(status=api.GenericResult.GENERIC_STATUS_FAILURE, exception="out of memory")


@dataclass
class Account:
    """The state of the service: volumes by name with the blocks of their files, apps by name, and calls by id."""

    volumes: dict[str, dict[str, list[bytes]]] = field(default_factory=dict)
    blocks: dict[str, bytes] = field(default_factory=dict)
    apps: dict[str, str] = field(default_factory=dict)
    images: list[api.Image] = field(default_factory=list)
    mounts: list[str] = field(default_factory=list)
    functions: list[api.Function] = field(default_factory=list)
    inputs: dict[str, api.FunctionInput] = field(default_factory=dict)
    results: dict[str, api.GenericResult | None] = field(default_factory=dict)
    expired: set[str] = field(default_factory=set)
    deaf: bool = False
    """Whether cancellations are accepted but not carried out."""
    done: list[str] = field(default_factory=list)
    """Names of the called procedures, in order."""

    def write(self, volume: str, path: str, content: bytes) -> None:
        """Write a file to a volume, as a container does with a commit."""
        digest = hashlib.sha256(content).hexdigest()
        self.blocks[digest] = content
        self.volumes[volume][path] = [bytes.fromhex(digest)]

    def start(self, call: str) -> None:
        """Do nothing; the account of ``modal_containers.py`` runs the function."""

    stop = look = commit = start

    def content(self, volume: str, path: str) -> bytes:
        """The bytes of a file."""
        return b"".join(self.blocks[block.hex()] for block in self.volumes[volume][path])


def token() -> str:
    """A web token that is valid for an hour; nobody verifies it."""
    parts = [{"alg": "none"}, {"exp": int(time.time()) + 3600}]
    return ".".join([*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts), "x"])


class Service(ModalClientBase):
    """The procedures. The id of a volume is ``vo-`` and its name, that of an app ``ap-`` and its name."""

    def __init__(self, account: Account, blocks_url: str) -> None:
        self.account = account
        self.url = blocks_url

    def __mapping__(self) -> Any:
        return {
            path: handler._replace(func=self._recorded(handler.func)) for path, handler in super().__mapping__().items()
        }

    def _recorded(self, procedure: Any) -> Any:
        async def call(stream: Any) -> None:
            self.account.done.append(procedure.__name__)
            await procedure(stream)

        return call

    def _files(self, volume_id: str) -> dict[str, list[bytes]]:
        name = volume_id.removeprefix("vo-")
        if name not in self.account.volumes:
            raise GRPCError(Status.NOT_FOUND, f"no volume {name}")
        return self.account.volumes[name]

    async def ClientHello(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()
        await stream.send_message(api.ClientHelloResponse(image_builder_version="2025.06"))

    async def AuthTokenGet(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()
        await stream.send_message(api.AuthTokenGetResponse(token=token()))

    async def EnvironmentGetOrCreate(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()
        settings = api.EnvironmentSettings(image_builder_version="2025.06")
        metadata = api.EnvironmentMetadata(name="main", settings=settings)
        await stream.send_message(api.EnvironmentGetOrCreateResponse(environment_id="en-1", metadata=metadata))

    async def VolumeGetOrCreate(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        name, there = request.deployment_name, request.deployment_name in self.account.volumes
        if request.object_creation_type == api.OBJECT_CREATION_TYPE_CREATE_FAIL_IF_EXISTS:
            if there:
                raise GRPCError(Status.ALREADY_EXISTS, f"Volume {name} already exists")
            self.account.volumes[name] = {}
        elif not there:
            raise GRPCError(Status.NOT_FOUND, f"no volume {name}")
        metadata = api.VolumeMetadata(version=api.VOLUME_FS_VERSION_V2, name=name)
        await stream.send_message(api.VolumeGetOrCreateResponse(volume_id=f"vo-{name}", metadata=metadata))

    async def VolumeList(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()
        names = list(self.account.volumes)
        items = [
            api.VolumeListItem(label=name, volume_id=f"vo-{name}", metadata=api.VolumeMetadata(name=name, version=2))
            for name in names
        ]
        await stream.send_message(api.VolumeListResponse(items=items))

    async def VolumeDelete(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        self._files(request.volume_id)
        del self.account.volumes[request.volume_id.removeprefix("vo-")]
        await stream.send_message(api.google_dot_protobuf_dot_empty__pb2.Empty())

    async def VolumeCommit(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        self._files(request.volume_id)
        self.account.commit(request.volume_id.removeprefix("vo-"))
        await stream.send_message(api.VolumeCommitResponse(skip_reload=False))

    async def VolumeReload(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()
        raise GRPCError(Status.FAILED_PRECONDITION, "there are open files preventing the operation")

    async def VolumePutFiles2(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        files, missing = self._files(request.volume_id), []
        for number, file in enumerate(request.files):
            for place, block in enumerate(file.blocks):
                name = block.contents_sha256.hex()
                if name not in self.account.blocks:
                    url = f"{self.url}/{name}"
                    missing.append({"file_index": number, "block_index": place, "put_url": url})
        if not missing:
            for file in request.files:
                files[file.path.lstrip("/")] = [block.contents_sha256 for block in file.blocks]
        await stream.send_message(api.VolumePutFiles2Response(missing_blocks=missing))

    async def VolumeGetFile2(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        files, path = self._files(request.volume_id), request.path.lstrip("/")
        if path not in files:
            raise GRPCError(Status.NOT_FOUND, f"no file {path}")
        urls = [f"{self.url}/{block.hex()}" for block in files[path]]
        size = sum(len(self.account.blocks[block.hex()]) for block in files[path])
        await stream.send_message(api.VolumeGetFile2Response(get_urls=urls, size=size, start=0, len=size))

    async def VolumeListFiles2(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        files, path = self._files(request.volume_id), request.path.lstrip("/")
        if path not in files:
            raise GRPCError(Status.NOT_FOUND, f"no file {path}")
        size = sum(len(self.account.blocks[block.hex()]) for block in files[path])
        entry = api.FileEntry(path=path, type=api.FileEntry.FileType.FILE, size=size)
        await stream.send_message(api.VolumeListFiles2Response(entries=[entry]))

    async def AppGetByDeploymentName(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        await stream.send_message(api.AppGetByDeploymentNameResponse(app_id=self.account.apps.get(request.name, "")))

    async def AppCreate(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        await stream.send_message(api.AppCreateResponse(app_id=f"ap-{request.description}"))

    async def AppHeartbeat(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()
        await stream.send_message(api.google_dot_protobuf_dot_empty__pb2.Empty())

    async def AppPublish(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        self.account.apps[request.name] = request.app_id
        await stream.send_message(api.AppPublishResponse(url="http://localhost", deployed_at=time.time()))

    async def AppGetOrCreate(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        if request.app_name not in self.account.apps:
            raise GRPCError(Status.NOT_FOUND, f"no app {request.app_name}")
        await stream.send_message(api.AppGetOrCreateResponse(app_id=self.account.apps[request.app_name]))

    async def AppStop(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        name = request.app_id.removeprefix("ap-")
        del self.account.apps[name]
        for call in self.account.results:
            if call.startswith(f"fc-{name}-") and self.account.results[call] is None:
                self.account.results[call] = TERMINATED
                self.account.stop(call)
        await stream.send_message(api.google_dot_protobuf_dot_empty__pb2.Empty())

    async def ImageGetOrCreate(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        self.account.images.append(request.image)
        await stream.send_message(
            api.ImageGetOrCreateResponse(image_id=f"im-{len(self.account.images)}", result=SUCCESS)
        )

    async def MountBatchedCheckExistence(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()  # all exist, so that no file of the package is sent
        await stream.send_message(api.MountBatchedCheckExistenceResponse())

    async def AppClientDisconnect(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()
        await stream.send_message(api.google_dot_protobuf_dot_empty__pb2.Empty())

    async def MountPutFile(self, stream: Any) -> None:  # noqa: N802
        await stream.recv_message()
        await stream.send_message(api.MountPutFileResponse(exists=True))

    async def MountGetOrCreate(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        self.account.mounts += [file.filename for file in request.files]
        await stream.send_message(api.MountGetOrCreateResponse(mount_id="mo-1"))

    async def FunctionPrecreate(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        metadata = api.FunctionHandleMetadata(function_name=request.function_name)
        await stream.send_message(api.FunctionPrecreateResponse(function_id="fu-1", handle_metadata=metadata))

    async def FunctionCreate(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        self.account.functions.append(request.function)
        metadata = api.FunctionHandleMetadata(
            function_name=request.function.function_name, function_type=request.function.function_type
        )
        data = api.FunctionData(ranked_functions=[api.FunctionData.RankedFunction(rank=0, function=request.function)])
        answer = api.FunctionCreateResponse(function_id="fu-1", function_data=data, handle_metadata=metadata)
        await stream.send_message(answer)

    async def FunctionMap(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        call = f"fc-{self.account.functions[-1].app_name}-{len(self.account.results)}"
        (item,) = request.pipelined_inputs
        self.account.inputs[call], self.account.results[call] = item.input, None
        self.account.start(call)
        await stream.send_message(
            api.FunctionMapResponse(
                function_call_id=call,
                pipelined_inputs=[api.FunctionPutInputsResponseItem(idx=0, input_id="in-1", input_jwt="x")],
            )
        )

    async def FunctionGetOutputs(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        call = request.function_call_id
        if call not in self.account.results:
            raise GRPCError(Status.NOT_FOUND, f"no call {call}")
        self.account.look(call)
        result, answer = self.account.results[call], api.FunctionGetOutputsResponse(num_unfinished_inputs=1)
        if call in self.account.expired:
            answer = api.FunctionGetOutputsResponse()
        elif result is not None:
            item = api.FunctionGetOutputsItem(result=result, idx=0, data_format=api.DATA_FORMAT_PICKLE)
            answer = api.FunctionGetOutputsResponse(idxs=[0], outputs=[item])
        await stream.send_message(answer)

    async def FunctionCallCancel(self, stream: Any) -> None:  # noqa: N802
        request = await stream.recv_message()
        call = request.function_call_id
        if call not in self.account.results:
            raise GRPCError(Status.NOT_FOUND, f"no call {call}")
        if self.account.results[call] is None and request.terminate_containers and not self.account.deaf:
            self.account.results[call] = TERMINATED
            self.account.stop(call)
        await stream.send_message(api.google_dot_protobuf_dot_empty__pb2.Empty())


Service.__abstractmethods__ = frozenset()  # a call of any other procedure fails


class Running:
    """Runs the service and its store of blocks, each on a free port of this machine, until ``close``."""

    def __init__(self, account: Account | None = None) -> None:
        self.account = account or Account()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._store())
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)

    async def _start(self) -> str:
        self._server = Server([Service(self.account, f"http://127.0.0.1:{self._http.server_port}")])
        await self._server.start("127.0.0.1", 0)
        (socket,) = self._server._server.sockets
        return f"http://127.0.0.1:{socket.getsockname()[1]}"

    def _store(self) -> type[BaseHTTPRequestHandler]:
        account = self.account

        class Store(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                account.blocks[self.path[1:]] = self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(b"stored")

            def do_GET(self) -> None:
                self.answer(account.blocks[self.path[1:]])

            def answer(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        return Store

    async def _stop(self) -> None:
        self._server.close()
        await self._server.wait_closed()

    def close(self) -> None:
        """Stop both."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._http.shutdown()
        self._http.server_close()
