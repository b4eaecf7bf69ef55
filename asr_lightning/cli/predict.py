"""``predict``: transcribe audio files with a model, one text a file; ``transcribe`` writes times and subtitles too."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from pathlib import Path
from typing import NamedTuple, TextIO

from asr_lightning.cli.progress import Progress
from asr_lightning.cli.reading import audio_files, read_all, require_writable
from asr_lightning.scoring.text import spreadsheet_cell

logger = logging.getLogger(__name__)


class Row(NamedTuple):
    """The text of one audio file; the names of the fields are those of the columns."""

    file: str
    seconds: float
    text: str


def parser() -> argparse.ArgumentParser:
    """The parser for ``predict``."""
    options = argparse.ArgumentParser(prog="python -m asr_lightning predict", description=__doc__)
    options.add_argument("paths", nargs="+", type=Path, help="audio files, or folders of them")
    options.add_argument("--model", required=True, help="a model folder, such as runs/demo/model, or a name of models")
    options.add_argument("--output", type=Path, help="FILE.jsonl, FILE.csv or FILE.txt; default: print to the terminal")
    options.add_argument("--batch_size", type=int, default=16)
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    options.add_argument("--language", help="language, such as de, for a multilingual model that was saved without one")
    native = "process audio as the untouched model does; always so with a model that is not specialized"
    options.add_argument("--native", action="store_true", help=native)
    return options


def run(command: str, arguments: list[str]) -> int:
    """Transcribe every file that can be read; returns 1 if some could not be read."""
    options = parser().parse_args(arguments)
    validate_options(options)
    files = list(audio_files(options.paths))
    if not files:
        raise ValueError(f"no audio file in {', '.join(map(str, options.paths))}")
    rows, failures = transcribe_files(files, options)
    if options.output:
        write_file(rows, options.output)
    else:
        write(rows, sys.stdout, ".txt")
    for failure in failures:
        logger.error("not transcribed: %s", failure)
    return 1 if failures else 0


def validate_options(options: argparse.Namespace) -> None:
    """Refuse options that would make the command fail later.

    Raises:
        ValueError: The suffix of the output is not that of a format, its file exists, its folder does not exist or may
            not be written to, or the batch size is below 1.
    """
    if options.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, not {options.batch_size}")
    if options.output is None:
        return
    if options.output.suffix not in (".jsonl", ".csv", ".txt"):
        raise ValueError(f"--output must end in .jsonl, .csv or .txt, not {options.output.name}")
    require_writable(options.output)


def transcribe_files(files: list[Path], options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Transcribe ``files``; returns their rows in the same order, and a message for each file that was refused."""
    from asr_lightning.data.characters import shown
    from asr_lightning.recognizer import load

    recognizer = load(
        options.model,
        device=options.device,
        language=options.language,
        native=options.native,
        batch_size=options.batch_size,
        beam=1,
    )
    rows, failures, progress = [], [], Progress()
    for read in read_all(files, recognizer, progress.show):
        if read.transcription is not None:
            rows.append(Row(shown(str(read.path)), round(read.transcription.seconds, 3), read.transcription.text))
        if read.refusal:
            failures.append(read.refusal)
    progress.clear()
    return rows, failures


def write_file(rows: list[Row], path: Path) -> None:
    """Write ``rows`` to ``path``, or print them if that fails, since it may have taken hours to make them.

    Raises:
        OSError: The file cannot be written; the rows were printed.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            write(rows, file, path.suffix)
    except OSError:
        path.unlink(missing_ok=True)
        logger.error("%s cannot be written, so the texts are printed", path)
        write(rows, sys.stdout, ".txt")
        raise


def write(rows: list[Row], file: TextIO, suffix: str) -> None:
    """Write ``rows`` in the format of ``suffix``: JSON lines, CSV, or one file and its text a line."""
    if suffix == ".csv":
        writer = csv.writer(file)
        writer.writerow(Row._fields)
        writer.writerows(row._replace(text=spreadsheet_cell(row.text)) for row in rows)
        return
    for row in rows:
        line = json.dumps(row._asdict(), ensure_ascii=False) if suffix == ".jsonl" else f"{row.file}\t{row.text}"
        file.write(f"{line}\n")
