"""A server process as of ``serve``, but with quick workers: ``python -m tests.server.serve_process HOME PORT``."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from asr_lightning.server.engine.engine import Engine
from asr_lightning.server.http.app import create_app
from asr_lightning.server.http.models import Catalogue
from asr_lightning.server.http.run import serve_app
from asr_lightning.server.http.settings import ServerSettings
from tests.server import driver


def main(home: Path, port: int) -> None:
    engine = Engine(driver.settings(home))
    engine.start()
    listing = tuple({"name": name, "source": name, "licence": "MIT"} for name in driver.MODELS)
    settings = ServerSettings(token=os.environ.get("ASR_SERVER_TOKEN"), min_free_bytes=0, poll_s=0.02)
    app = create_app(engine, settings, Catalogue(driver.MODELS, {}, listing))
    with socket.create_server(("127.0.0.1", port)) as listener:
        say = f"listening on http://127.0.0.1:{listener.getsockname()[1]}\n"
        serve_app(app, listener, lambda: (sys.stderr.write(say), sys.stderr.flush()))
    engine.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
