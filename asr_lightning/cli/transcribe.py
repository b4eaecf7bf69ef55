"""``transcribe``: recordings of any length to text, tables or subtitles, with any saved, exported or named model."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.cli.progress import Progress
from asr_lightning.cli.reading import Read, audio_files, read_all, require_writable
from asr_lightning.cli.transcripts import FORMATS, ONE_EACH, Output, Style
from asr_lightning.errors import OptionError

if TYPE_CHECKING:
    from asr_lightning.recognizer import Recognizer

logger = logging.getLogger(__name__)

STDIN = "-"
EXAMPLE = "such as runs/mine, a folder that export wrote, or a name of models"


def parser() -> argparse.ArgumentParser:
    """The parser for ``transcribe``."""
    options = argparse.ArgumentParser(prog="python -m asr_lightning transcribe", description=__doc__)
    options.add_argument("paths", nargs="+", help="recordings, folders of them, or - for a recording on stdin")
    options.add_argument("--model", required=True, help=f"a model: {EXAMPLE}")
    where = options.add_mutually_exclusive_group()
    where.add_argument("--output", type=Path, help=f"one FILE, whose suffix is the format: {', '.join(FORMATS)}")
    where.add_argument("--output_dir", type=Path, help="a folder for a file of each recording; it is made if need be")
    options.add_argument("--format", choices=FORMATS, help="format; default: that of --output, else txt")
    options.add_argument("--words", action="store_true", help="times of words: in jsonl, and a subtitle for each word")
    beam = "hypotheses that are followed, where the runtime of the model can search; 1 is greedy; default: 5"
    options.add_argument("--beam", type=int, help=beam)
    options.add_argument("--language", help="language, such as de, for a multilingual model that was saved without one")
    native = "feed audio as the untouched model's makers do; always so with a model that is not specialized"
    options.add_argument("--native", action="store_true", help=native)
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; exports run on the CPU")
    options.add_argument("--threads", type=int, default=0, help="CPU threads; default: one for each core")
    options.add_argument("--batch_size", type=int, default=16, help="phrases that are read at once, at most")
    return options


def run(command: str, arguments: list[str]) -> int:
    """Transcribe every recording that can be read; returns 1 if some could not be read."""
    options = parser().parse_args(arguments)
    options.format = format_of(options)
    if STDIN in options.paths:
        require_alone(options)
        outputs = {Path(STDIN): options.output}
    else:
        outputs = outputs_of(options)
    if options.output is not None:
        require_writable(options.output)
    recognizer = load(options)
    if STDIN in options.paths:
        return transcribe_stdin(recognizer, options)
    progress = Progress()
    reads = shown_progress(read_all(outputs, recognizer, progress.show), progress)
    failures = write_all(reads, outputs, options)
    for failure in failures:
        logger.error("not transcribed: %s", failure)
    return 1 if failures else 0


def format_of(options: argparse.Namespace) -> str:
    """The format that is asked for.

    Raises:
        OptionError: The suffix of the output is that of no format, or of another one.
    """
    if options.batch_size < 1 or options.threads < 0 or (options.beam is not None and options.beam < 1):
        raise OptionError("--batch_size and --beam must be at least 1, and --threads not negative")
    suffix = options.output.suffix.removeprefix(".") if options.output else None
    if suffix is not None and suffix not in FORMATS:
        raise OptionError(f"--output must end in .{', .'.join(FORMATS)}, not {options.output.name}", "output")
    if suffix is not None and options.format not in (None, suffix):
        raise OptionError(f"--format {options.format} does not fit --output {options.output}: leave one out", "format")
    return str(options.format or suffix or "txt")


def require_alone(options: argparse.Namespace) -> None:
    """Refuse other recordings beside that on stdin."""
    if len(options.paths) > 1:
        raise OptionError("- is a recording on stdin: transcribe it in a command of its own")
    if options.output_dir is not None:
        raise OptionError("- has no name: give --output FILE in the place of --output_dir", "output_dir")


def outputs_of(options: argparse.Namespace) -> dict[Path, Path | None]:
    """The recordings, each with the file for its text, which is None if it goes to the output of all.

    Raises:
        ValueError: A path does not exist, there is no recording, or an output exists or cannot hold all of them.
    """
    roots = [Path(path) for path in options.paths]
    outputs: dict[Path, Path | None] = {}
    for root in roots:
        for file in audio_files([root]):
            outputs.setdefault(file, beside(file, root, options) if options.output_dir else options.output)
    if not outputs:
        raise ValueError(f"no audio file in {', '.join(map(str, roots))}")
    if options.output_dir is None:
        if len(outputs) > 1 and options.format in ONE_EACH:
            raise OptionError(
                f"{options.format} holds one recording, and here are {len(outputs)}: give --output_dir FOLDER", "output"
            )
        return outputs
    return own_files(outputs, options)


def beside(file: Path, root: Path, options: argparse.Namespace) -> Path:
    """The file for the text of a recording: at the place in the folder of outputs that it has below ``root``."""
    place = file.relative_to(root) if root.is_dir() else Path(file.name)
    folder: Path = options.output_dir
    return folder / place.with_suffix(f".{options.format}")


def own_files(outputs: dict[Path, Path | None], options: argparse.Namespace) -> dict[Path, Path | None]:
    """``outputs`` with names that differ: where two would have one name, they keep the suffix of the recording.

    Raises:
        ValueError: An output exists.
    """
    targets = list(outputs.values())
    result: dict[Path, Path] = {}
    for file, target in outputs.items():
        assert target is not None
        own = target if targets.count(target) == 1 else target.with_name(f"{file.name}.{options.format}")
        if own.exists() or own in result.values():
            raise ValueError(f"{own} exists; name another --output_dir, or remove it first")
        result[file] = own
    for own in result.values():
        own.parent.mkdir(parents=True, exist_ok=True)
    return dict(result)


def load(options: argparse.Namespace) -> Recognizer:
    """Load the model that is asked for."""
    from asr_lightning import recognizer

    return recognizer.load(
        options.model,
        device=options.device,
        language=options.language,
        native=options.native,
        batch_size=options.batch_size,
        beam=options.beam or recognizer.BEAM,
        words=options.words or options.format in ONE_EACH,
        threads=options.threads,
    )


def shown_progress(reads: Iterable[Read], progress: Progress) -> Iterator[Read]:
    """Pass ``reads`` on, and clear the line of the progress for each."""
    for read in reads:
        progress.restart()
        yield read


def write_all(reads: Iterable[Read], outputs: dict[Path, Path | None], options: argparse.Namespace) -> list[str]:
    """Write each transcription as soon as it is there; returns a message for each recording that was refused.

    Raises:
        OSError: An output cannot be written; its texts were printed.
    """
    from asr_lightning.data.characters import shown

    failures = []
    with ExitStack() as stack:
        shared = None if options.output_dir else stack.enter_context(opened(options.output, options, len(outputs) > 1))
        for read in reads:
            if read.refusal:
                failures.append(read.refusal)
            if read.transcription is not None:
                with nullcontext(shared) if shared else opened(outputs[read.path], options) as output:
                    output.write(shown(str(read.path)), read.transcription)
    return failures


def opened(path: Path | None, options: argparse.Namespace, many: bool = False) -> closing[Output]:
    """The output for one recording, or for ``many``, which is closed at the end of the context."""
    return closing(Output(path, Style(options.format, options.words, many)))


def transcribe_stdin(recognizer: Recognizer, options: argparse.Namespace) -> int:
    """Transcribe what comes through stdin, and write each phrase as soon as the pause after it was heard."""
    from asr_lightning.data import streams

    rate = recognizer.model.sample_rate
    with opened(options.output, options) as output:
        output.stream("stdin", recognizer.stream(streams.piped_blocks(sys.stdin.buffer, "stdin", rate), rate))
    return 0
