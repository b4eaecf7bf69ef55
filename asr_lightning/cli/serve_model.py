"""``serve-model``: offer a model to other programs: OpenAI's transcription protocol, and Home Assistant's Wyoming."""

from __future__ import annotations

import argparse
import math
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.errors import OptionError, require_extra

if TYPE_CHECKING:
    from asr_lightning.model_server.reader import Reader
    from asr_lightning.model_server.settings import Settings
    from asr_lightning.recognizer import Recognizer

PORT = 5554
EPILOG = (
    "The token that clients must send comes from ASR_MODEL_TOKEN. It is not an option, because other users of this "
    "machine see options."
)


def parser() -> argparse.ArgumentParser:
    """The parser for ``serve-model``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning serve-model", description=__doc__, epilog=EPILOG, allow_abbrev=False
    )
    add = options.add_argument
    add("model", help="an export, a model folder such as runs/demo/model, a run, or a name of models")
    add("--name", help="name of the model for clients; default: that of its run, or of its folder")
    add("--host", default="127.0.0.1", help="address to bind (127.0.0.1); any but loopback needs a token")
    add("--port", type=int, default=PORT, help=f"port to listen on ({PORT}); 0 takes a free one")
    add("--wyoming", type=int, metavar="PORT", help="also speak the Wyoming protocol, on this port (10300 is usual)")
    add("--wyoming_host", default="127.0.0.1", help="address to bind for it (127.0.0.1); the protocol has no tokens")
    add("--language", help="language that the model reads, such as de, if it was not saved with one")
    add("--device", default="auto", help="auto, cpu, cuda or mps; exports run on the CPU")
    add("--native", action="store_true", help="process audio as the untouched model does")
    add("--beam", type=int, help="hypotheses that are followed, where the model's runtime can search; 1 is greedy")
    add("--threads", type=int, default=0, help="number of CPU threads; 0 takes one for each core")
    add("--queue", type=int, default=8, help="most recordings that may wait; further ones are told to try again (8)")
    add("--max_mb", type=float, default=100, help="largest recording that is accepted, in MB (100)")
    add("--max_minutes", type=float, default=120, help="longest recording that is read, in minutes (120)")
    add("--allow_host", nargs="+", default=[], metavar="NAME", help="further host names that clients may use")
    add("--allow_origin", nargs="+", default=[], metavar="ORIGIN", help="web pages that may ask; * is all")
    add("--insecure_no_auth", action="store_true", help="require no token on any address")
    return options


def run(command: str, arguments: list[str]) -> int:
    """Serve until a signal."""
    options = parser().parse_args(arguments)
    validate_options(options)
    for module in ("starlette", "uvicorn", "python_multipart", *(["wyoming"] if options.wyoming is not None else [])):
        require_extra("serve-model", module, "serve-model")
    settings = server_settings(options)
    reader = open_reader(options)
    from asr_lightning.cli.serve import listen
    from asr_lightning.model_server import run as server
    from asr_lightning.model_server.app import create_app

    if options.wyoming is not None and reader.language is None:
        raise OptionError("Home Assistant must know the language of the model: give --language, such as en", "language")
    with listen(options.host, options.port) as http:
        if options.wyoming is None:
            server.serve(
                create_app(reader, settings), reader, http, None, lambda: announce(options, reader, http, None)
            )
            return 0
        with listen(options.wyoming_host, options.wyoming) as wyoming:
            app = create_app(reader, settings)
            server.serve(app, reader, http, wyoming, lambda: announce(options, reader, http, wyoming))
    return 0


def validate_options(options: argparse.Namespace) -> None:
    """Refuse options that would make the server fail later.

    Raises:
        OptionError: A number is out of range.
    """
    for name in ("port", "wyoming"):
        port = getattr(options, name)
        if port is not None and not 0 <= port < 65536:
            raise OptionError(f"--{name} must be from 0 to 65535, not {port}", name)
    if options.queue < 0:
        raise OptionError(f"--queue must be at least 0, not {options.queue}", "queue")
    for name in ("max_mb", "max_minutes"):
        if not 0 < getattr(options, name) < math.inf:
            raise OptionError(f"--{name} must be above 0, not {getattr(options, name):g}", name)


def server_settings(options: argparse.Namespace) -> Settings:
    """The settings of the HTTP server."""
    from asr_lightning.model_server.settings import Settings, hosts_of, token_of

    token = token_of(options.host, options.insecure_no_auth, os.environ)
    return Settings(
        hosts=None if options.insecure_no_auth else hosts_of(options.host, token, options.allow_host),
        token=token,
        origins=tuple(options.allow_origin),
        max_bytes=int(options.max_mb * (1 << 20)),
    )


def open_reader(options: argparse.Namespace) -> Reader:
    """Load the model.

    Raises:
        ValueError: It cannot be loaded, or reads another language than the one that the options name.
    """
    from asr_lightning.model_server.reader import Reader
    from asr_lightning.recognizer import folder_of
    from asr_lightning.runtime.languages import language_of

    try:
        recognizer = _load(options, options.language)
    except OptionError as error:
        if error.param != "language":
            raise
        recognizer = _load(options, None)  # it reads one language only, which it may not say
    language = recognizer.model.language or language_of(folder_of(options.model)) or options.language
    if options.language not in (None, language):
        raise OptionError(f"{options.model} reads {language}: leave out --language", "language")
    name = options.name or name_of(options.model)
    return Reader(recognizer, name, language, options.queue, 60 * options.max_minutes)


def _load(options: argparse.Namespace, language: str | None) -> Recognizer:
    from asr_lightning.recognizer import BEAM, load

    return load(
        options.model,
        device=options.device,
        language=language,
        native=options.native,
        beam=BEAM if options.beam is None else options.beam,
        threads=options.threads,
    )


def name_of(model: str) -> str:
    """Name for clients: that of the run if ``model`` is a run's folder or in one, otherwise of the folder itself."""
    path = Path(model).expanduser()
    if not path.exists():
        return model
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name


def announce(options: argparse.Namespace, reader: Reader, http: socket.socket, wyoming: socket.socket | None) -> None:
    """Tell the operator where the model can be reached, and by whom."""
    from asr_lightning.server.http.settings import is_loopback

    if options.insecure_no_auth and not is_loopback(options.host):
        say("WARNING: --insecure_no_auth: whoever reaches this server can use it")
    say(f"{reader.name} listens on http://{address(http)}/v1")
    if wyoming is not None:
        if not is_loopback(options.wyoming_host):
            say("WARNING: the Wyoming protocol has no tokens: whoever reaches its port can use the model")
        say(f"{reader.name} listens on tcp://{address(wyoming)} (Wyoming)")


def address(listener: socket.socket) -> str:
    """Host and port of ``listener``, as a URL has them."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def say(text: str) -> None:
    """Print a line for the operator."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
