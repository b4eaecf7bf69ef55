"""``serve``: run the training server. It loads no torch: child processes do all work on audio and models."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.cli import serve_home
from asr_lightning.errors import require_training

if TYPE_CHECKING:
    from asr_lightning.server.engine.engine import Engine
    from asr_lightning.server.engine.settings import EngineSettings
    from asr_lightning.server.http.models import Catalogue
    from asr_lightning.server.http.settings import ServerSettings

PORT = 5553
DAY_S = 24 * 3600
MOST_DAYS = 36_500
ADMINISTRATION = ("token", "audit", "backup")
EPILOG = (
    "serve token adds, lists and revokes the tokens of names; serve audit checks and shows who did what; serve backup "
    "copies the home. Each has its own --help."
)
HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")


def parser() -> argparse.ArgumentParser:
    """The parser for ``serve``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning serve", description=__doc__, epilog=EPILOG, parents=[serve_home.option()]
    )
    host = os.environ.get("SERVER_HOSTNAME", "127.0.0.1")
    add = options.add_argument
    add("--host", default=host, help="address to bind (SERVER_HOSTNAME; 127.0.0.1); any but loopback needs a token")
    add("--port", type=int, default=PORT, help=f"port to listen on ({PORT}); 0 takes a free one")
    add("--device", nargs="+", help="cpu, mps, cuda:0 …: one training at a time on each; default: all GPUs, else CPU")
    add("--models_dir", type=Path, help="folder of your own model folders, which clients can then name")
    add("--queue", type=int, default=20, help="most jobs that may wait or run (20)")
    add("--grace", type=float, default=30.0, help="seconds that a cancelled training may take to stop by itself (30)")
    add("--keep_archives", action="store_true", help="keep uploaded archives after they have been read")
    add("--retention", type=float, metavar="DAYS", help="delete jobs that many days after their end; default: never")
    add("--allow_host", nargs="+", default=[], metavar="NAME", help="further host names that clients may address it by")
    add(
        "--insecure_no_auth",
        action="store_true",
        help="require no token on any address: anyone who reaches the server may use it",
    )
    add(
        "--tensorboard_public", action="store_true", help="open TensorBoard to everybody, on port 6006 of all addresses"
    )
    add("--no_tensorboard", action="store_true", help="do not offer TensorBoard")
    return options


def run(command: str, arguments: list[str]) -> int:
    """Serve until a signal. Running trainings continue after it, and the next start takes them over."""
    if arguments and arguments[0] in ADMINISTRATION:
        administration = importlib.import_module(f"asr_lightning.cli.serve_{arguments[0]}")
        return int(administration.run(arguments[1:]))
    options = parser().parse_args(arguments)
    validate_options(options)
    serve_home.require_packages()
    require_training("a server that trains")
    from asr_lightning.server.engine.engine import Engine
    from asr_lightning.server.http.models import catalogue

    models = catalogue(options.models_dir)
    listener = listen(options.host, options.port)
    with listener:
        engine = Engine(engine_settings(options, models))
        try:
            settings = server_settings(options, engine.home.path, listener.getsockname()[1])
            require_tokens(engine, settings)
            engine.start()
            say(f"audit log: {serve_home.record(engine.home.path, 'serve', who='server')}")
            serve(engine, settings, models, listener)
        finally:
            engine.stop()
    return 0


def validate_options(options: argparse.Namespace) -> None:
    """Refuse options that would make the server fail later.

    Raises:
        ValueError: A number is out of range, or a host name is not valid.
    """
    if not 0 <= options.port < 65536:
        raise ValueError(f"--port must be from 0 to 65535, not {options.port}")
    if options.queue < 1:
        raise ValueError(f"--queue must be at least 1, not {options.queue}")
    if not 0 <= options.grace <= DAY_S:
        raise ValueError(f"--grace takes seconds, at most a day: not {options.grace:g}")
    if options.retention is not None and not 0 <= options.retention <= MOST_DAYS:
        raise ValueError(f"--retention takes days, at most {MOST_DAYS}: not {options.retention:g}")
    for name in options.allow_host:
        if not HOST.fullmatch(name):
            raise ValueError(f"--allow_host takes bare names such as asr.example.org, not {name}")


def listen(host: str, port: int) -> socket.socket:
    """Open the socket that clients connect to.

    Raises:
        OSError: The address is in use, or does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {host} port {port} ({error.strerror}): give another --port") from error


def engine_settings(options: argparse.Namespace, models: Catalogue) -> EngineSettings:
    """The settings of the engine."""
    from asr_lightning.server.engine.settings import EngineSettings
    from asr_lightning.server.http.hardware import devices

    return EngineSettings(
        home=options.home,
        devices=tuple(options.device or devices()),
        models=models.sources,
        queue_cap=options.queue,
        grace_s=options.grace,
        keep_archives=options.keep_archives,
        retention_s=None if options.retention is None else options.retention * DAY_S,
    )


def server_settings(options: argparse.Namespace, home: Path, port: int) -> ServerSettings:
    """The settings of the HTTP server; also tells the operator what protects the server."""
    from asr_lightning.server.http import settings

    token, is_new = settings.find_token(home, options.host, options.insecure_no_auth, os.environ)
    if is_new and sys.stderr.isatty():
        say(f"token: {token}")  # on a terminal only: logs are kept, copied and read by others
    elif is_new:
        say(f"the token is in {home / 'token'}")
    if options.insecure_no_auth and not settings.is_loopback(options.host):
        say("WARNING: --insecure_no_auth: whoever reaches this server can read the voices and models on it")
    if options.tensorboard_public:
        say("WARNING: --tensorboard_public: whoever reaches port 6006 can read the curves of every job")
    return settings.ServerSettings(
        hosts=settings.allowed_hosts(options.host, port, options.allow_host, os.environ),
        token=token,
        no_auth=options.insecure_no_auth,
        tensorboard=not options.no_tensorboard,
        tensorboard_public=options.tensorboard_public,
    )


def require_tokens(engine: Engine, settings: ServerSettings) -> None:
    """Refuse to serve the jobs of names to everybody because the file of their tokens was lost.

    Raises:
        ValueError: Jobs belong to names, and no request would need a token.
    """
    from asr_lightning.server.engine.states import PURGED, STATES
    from asr_lightning.server.http.tokens import TokenFile

    tokens = TokenFile(engine.home.path)
    if settings.token is not None or settings.no_auth or tokens.is_in_use():
        return
    if names := {job.owner for job in engine.store.jobs(STATES - {PURGED}) if job.owner is not None}:
        raise ValueError(
            f"there are jobs of {', '.join(sorted(names))}, but {tokens.path} is missing, so that everybody could read "
            "them: restore it from a backup, or add tokens again with serve token add"
        )


def serve(engine: Engine, settings: ServerSettings, models: Catalogue, listener: socket.socket) -> None:
    """Answer requests that come in on ``listener``, until a signal."""
    from asr_lightning.server.http.app import create_app
    from asr_lightning.server.http.run import serve_app
    from asr_lightning.server.http.tensorboard import TensorBoard

    home = engine.home.path
    board = TensorBoard(home / "jobs", home / "tensorboard.log", settings.tensorboard_public)
    app = create_app(engine, settings, models, board if settings.tensorboard else None)
    if settings.tensorboard and settings.tensorboard_public:
        board.start()
    host, port = listener.getsockname()[:2]
    try:
        serve_app(app, listener, lambda: say(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}"))
    finally:
        board.stop()


def say(text: str) -> None:
    """Print a line for the operator."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
