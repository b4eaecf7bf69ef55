"""Runs ``python -m asr_lightning COMMAND``, or ``asr-lightning COMMAND``.

Each command imports what it needs; this file does not import torch.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.util import find_spec

from asr_lightning import __version__
from asr_lightning.cli import endings
from asr_lightning.training import memory
from asr_lightning.training.logs import configure_logging

COMMANDS = {
    "specialize": ("specialize", "the short way: a folder of recordings in, a model and a report out"),
    "fit": ("train", "specialize a model on an audio folder, and report WER before and after"),
    "validate": ("train", "dev WER of a finished run's model"),
    "test": ("train", "WER on the test split, before and after, of a finished run"),
    "transcribe": ("transcribe", "recordings of any length to text, tables or subtitles"),
    "listen": ("listen", "what is said into the microphone to text, live"),
    "predict": ("predict", "transcribe audio files with a model, one text a file"),
    "export": ("export", "convert a model to the formats of other runtimes, each proven on the test clips"),
    "bench-device": ("bench_device", "error rate, time, memory and size of exports on this machine"),
    "models": ("models", "list the models that --model knows by name"),
    "serve": ("serve", "the training server: jobs over HTTP, one or many, none lost"),
    "push": ("push", "upload a model or an export with its card to a hub, private by default"),
    "serve-model": ("serve_model", "offer a model to other programs: OpenAI's protocol and Home Assistant's"),
    "remote": ("remote", "train on a server, and fetch the model from it"),
    "cloud": ("cloud", "train on a GPU that is rented for it, and leave nothing there"),
    "run-job": ("run_job", "one job of the server; the server starts it"),
    "check-adapter": ("check_adapter", "check that a model family keeps the contract"),
}
UNIX_ONLY = {
    "serve": "run it there, and send recordings to it with remote",
    "cloud": "on Windows, use it inside WSL",
    "run-job": "the training server runs there, and starts it",
}
"""Commands that do not work on Windows, and what to do."""


def usage() -> str:
    """Return the text that ``--help`` prints."""
    commands = "\n".join(f"  {name:15}{text}" for name, (_, text) in COMMANDS.items())
    return (
        f"asr_lightning {__version__}: specialize a small speech recogniser to one voice or one domain\n\n"
        f"usage: python -m asr_lightning COMMAND [options]\n\n{commands}\n\n"
        "python -m asr_lightning COMMAND --help shows a command's options\n"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status.

    It is 0 for done, 1 for partly done, 2 for refused with a message, and 128 and its number for a signal.
    """
    try:
        status = _run(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a pipe that was closed can still be told from an error
    except BaseException as error:
        ending = endings.of(error)
        if ending is None or os.environ.get("ASR_LIGHTNING_DEBUG"):
            raise
        sys.stderr.write(ending.message)
        return ending.status
    return status


def _run(arguments: list[str]) -> int:
    if arguments in (["-V"], ["--version"]):
        sys.stdout.write(f"{__version__}\n")
        return 0
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    command = arguments[0]
    if command not in COMMANDS:
        sys.stderr.write(f"no command {command!r}: choose one of {', '.join(COMMANDS)}\n")
        return 2
    if command in UNIX_ONLY and find_spec("fcntl") is None and not {"-h", "--help"} & set(arguments):
        sys.stderr.write(f"error: {command} needs Linux or macOS: {UNIX_ONLY[command]}\n")
        return 2
    configure_logging()
    memory.keep()
    status: int = importlib.import_module(f"asr_lightning.cli.{COMMANDS[command][0]}").run(command, arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())
