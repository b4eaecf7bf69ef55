"""``python -m asr_lightning.server.http.tensorboard_child LOGDIR HOST PORT DESCRIPTOR``: TensorBoard for one server.

It ends when its standard input does. It offers scalars only: no projector (tensorboard#7119), and neither audio nor
texts, since these are a person's voice and words.
"""

from __future__ import annotations

import hmac
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

RELOAD_S = 10


def main(arguments: list[str]) -> int:
    """Serve until the server ends; write the port to ``DESCRIPTOR`` once TensorBoard listens."""
    logdir, host, port, descriptor = arguments
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from tensorboard import program
    from tensorboard.plugins.core import core_plugin
    from tensorboard.plugins.custom_scalar import custom_scalars_plugin
    from tensorboard.plugins.hparams import hparams_plugin
    from tensorboard.plugins.metrics import metrics_plugin
    from tensorboard.plugins.scalar import scalars_plugin

    plugins = [
        core_plugin.CorePluginLoader(), metrics_plugin.MetricsPlugin, scalars_plugin.ScalarsPlugin,
        custom_scalars_plugin.CustomScalarsPlugin, hparams_plugin.HParamsPlugin,
    ]  # fmt: skip

    class Server(program.WerkzeugServer):
        def __init__(self, app: Any, flags: Any) -> None:
            super().__init__(guarded(app, os.environ.get("ASR_TENSORBOARD_SECRET", "")), flags)
            with os.fdopen(int(descriptor), "w") as pipe:
                pipe.write(f"{self.server_port}\n")

    board = program.TensorBoard(plugins=plugins, server_class=Server)
    # load_fast would start a second process, which could outlive this one.
    options = [f"--logdir={logdir}", f"--host={host}", f"--port={port}", "--load_fast=false"]
    board.configure(["", *options, f"--reload_interval={RELOAD_S}", "--window_title=asr_lightning"])
    return int(board.main())


def guarded(app: Callable[..., Iterable[bytes]], secret: str) -> Callable[..., Iterable[bytes]]:
    """A version of ``app`` that answers only requests with ``secret``, or all requests if ``secret`` is empty."""

    def answer(environ: dict[str, str], start_response: Callable[..., object]) -> Iterable[bytes]:
        if secret and not hmac.compare_digest(environ.get("HTTP_X_ASR_SECRET", "").encode(), secret.encode()):
            start_response("403 Forbidden", [("Content-Type", "text/plain")])
            return [b"TensorBoard is at the training server's /tensorboard/\n"]
        return app(environ, start_response)

    return answer


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
