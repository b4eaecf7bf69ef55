"""``listen``: what is said into the microphone as text, a moment after each phrase."""

from __future__ import annotations

import argparse
import logging
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from asr_lightning.errors import OptionError

if TYPE_CHECKING:
    from asr_lightning.listening import Heard, Source

logger = logging.getLogger(__name__)

PLACE = "{}"
"""Stands for the text in the arguments of a command."""
COMMAND_SECONDS = 10.0
"""A command that takes longer for a phrase is ended."""


def parser() -> argparse.ArgumentParser:
    """The parser for ``listen``."""
    options = argparse.ArgumentParser(prog="python -m asr_lightning listen", description=__doc__)
    options.add_argument("--model", required=True, help="a model, best a folder that export wrote")
    options.add_argument("--output", type=Path, help="also append each phrase to this FILE, a line each")
    command = "also give each phrase to this command on its stdin, or as the argument that is {}; such as: wtype -"
    options.add_argument("--command", "--type", help=command)
    options.add_argument("--push_to_talk", action="store_true", help="listen from one press of Enter to the next")
    options.add_argument("--pause", type=float, help="seconds of the pause that ends a phrase; default: 0.25")
    options.add_argument("--microphone", help="number or part of the name of a microphone; default: that of the system")
    options.add_argument("--source", type=Path, help="read this recording as if a microphone heard it")
    options.add_argument("--fast", action="store_true", help="read --source as fast as it goes, not in real time")
    options.add_argument("--latency", action="store_true", help="show after how many milliseconds each text was there")
    options.add_argument("--beam", type=int, help="hypotheses that are followed; 1 is greedy; default: 5")
    options.add_argument("--language", help="language, such as de, for a multilingual model that was saved without one")
    options.add_argument("--native", action="store_true", help="feed audio as the untouched model's makers do")
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; exports run on the CPU")
    options.add_argument("--threads", type=int, default=0, help="CPU threads; default: one for each core")
    return options


def run(command: str, arguments: list[str]) -> int:
    """Listen until the source ends, or until Ctrl-C."""
    options = parser().parse_args(arguments)
    require_options(options)
    from asr_lightning import listening, microphone, recognizer
    from asr_lightning.runtime import long_form

    long_form.require_detector()
    if options.source is None:
        microphone.library()  # before a model is loaded, which takes a while
    loaded = recognizer.load(
        options.model,
        device=options.device,
        language=options.language,
        native=options.native,
        beam=options.beam or recognizer.BEAM,
        threads=options.threads,
    )
    source = source_of(options, loaded.model.sample_rate)
    is_down = key(sys.stdin) if options.push_to_talk else None
    cutter = listening.cutter_for(loaded.model, options.pause or listening.PAUSE, is_down)
    with opened(options) as hear:
        listener = listening.Listener(loaded.model, loaded.decoding, cutter, hear)
        what = "press Enter to speak, and again when you are done" if options.push_to_talk else "speak"
        logger.info("%s; Ctrl-C ends", what)
        with stopped_by_ctrl_c(listener.stop):
            listener.listen(source)
    return 0


def require_options(options: argparse.Namespace) -> None:
    """Refuse options that would fail later, or that do nothing.

    Raises:
        OptionError: One does.
    """
    if options.fast and options.source is None:
        raise OptionError("--fast is for --source FILE: a microphone hears in real time", "fast")
    if options.source is not None and not options.source.is_file():
        raise OptionError(f"{options.source} does not exist", "source")
    if options.source is not None and options.microphone is not None:
        raise OptionError("give --source or --microphone, and not both", "source")
    if options.pause is not None and not 0.1 <= options.pause <= 5:
        raise OptionError(f"--pause must be 0.1 to 5 seconds, not {options.pause:g}", "pause")
    if options.threads < 0 or (options.beam is not None and options.beam < 1):
        raise OptionError("--beam must be at least 1, and --threads not negative")
    if options.output is not None and not options.output.parent.is_dir():
        folder = options.output.parent
        raise OptionError(f"there is no folder {folder}: make it first (mkdir -p {folder})", "output")
    if options.command is not None:
        program = command_of(options.command)[0]
        if shutil.which(program) is None:
            raise OptionError(f"--command {options.command}: there is no program {program} here", "command")


def command_of(line: str) -> list[str]:
    """The program and the arguments in a line; no shell takes part, so that a text cannot become a command.

    Raises:
        OptionError: The line is empty, or a quotation mark is not closed.
    """
    try:
        parts = shlex.split(line)
    except ValueError as error:
        raise OptionError(f"--command {line}: {error}", "command") from error
    if not parts:
        raise OptionError("--command is empty: name a program, as in --command 'wtype -'", "command")
    return parts


def source_of(options: argparse.Namespace, sample_rate: int) -> Source:
    """The microphone, or the recording in its place."""
    from asr_lightning.microphone import Microphone, Recording

    if options.source is not None:
        return Recording(options.source, sample_rate, options.fast)
    return Microphone(sample_rate, options.microphone)


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[Callable[[Heard], None]]:
    """What takes each phrase: it prints it, appends it to the file, and gives it to the command."""
    file: TextIO | None = options.output.open("a", encoding="utf-8") if options.output else None
    command = command_of(options.command) if options.command else None

    def hear(heard: Heard) -> None:
        text = heard.segment.text
        print(f"{text}  [{heard.latency * 1000:.0f} ms]" if options.latency else text, flush=True)
        if file is not None:
            print(text, file=file, flush=True)
        if command is not None:
            give(text, command)

    try:
        yield hear
    finally:
        if file is not None:
            file.close()


def give(text: str, command: list[str]) -> None:
    """Give ``text`` to ``command``: as the argument that has its place, or on stdin with a space after it."""
    is_argument = any(PLACE in part for part in command[1:])
    call = [command[0], *(part.replace(PLACE, text) for part in command[1:])]
    try:
        # A session of its own, since Ctrl-C in the terminal is for us.
        subprocess.run(
            call,
            input=None if is_argument else f"{text} ",
            stdin=subprocess.DEVNULL if is_argument else None,
            encoding="utf-8",
            check=True,
            timeout=COMMAND_SECONDS,
            start_new_session=True,
        )
    except (subprocess.SubprocessError, OSError) as error:
        logger.error("the command has not taken %r: %s", text, error)


def key(file: TextIO) -> Callable[[], bool]:
    """Whether Enter was pressed an odd number of times on ``file``, which a thread reads."""
    presses = 0

    def count() -> None:
        nonlocal presses
        for _ in file:
            presses += 1

    threading.Thread(target=count, daemon=True).start()
    return lambda: presses % 2 == 1


@contextmanager
def stopped_by_ctrl_c(stop: Callable[[], None]) -> Iterator[None]:
    """Call ``stop`` at the first Ctrl-C; the second one ends the program at once."""
    before = signal.getsignal(signal.SIGINT)

    def stopped(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, stopped)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
