"""``predict``: read audio files with a saved model, and write their texts. Needs no transcripts and no trainer."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from asr_lightning.scoring.text import spreadsheet_cell

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The options of ``predict``."""
    options = argparse.ArgumentParser(prog="python -m asr_lightning predict", description=__doc__)
    options.add_argument("paths", nargs="+", type=Path, help="audio files, or folders of them")
    options.add_argument("--model", required=True, help="a model folder, such as runs/demo/model, or a name")
    options.add_argument("--output", type=Path, help="FILE.jsonl, FILE.csv or FILE.txt; without it, to the terminal")
    options.add_argument("--batch_size", type=int, default=16)
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    options.add_argument("--language", help="of a multilingual model that was not saved with one, such as de")
    native = "read audio as the untouched model does; a model that nobody has specialized is always read so"
    options.add_argument("--native", action="store_true", help=native)
    return options


def run(command: str, arguments: list[str]) -> int:
    """Transcribe every file that can be read; returns 1 if some could not be."""
    options = parser().parse_args(arguments)
    check_options(options)
    files = list(audio_files(options.paths))
    if not files:
        raise ValueError(f"no audio file in {', '.join(map(str, options.paths))}")
    rows, failures = transcribe_files(files, options)
    if options.output:
        with options.output.open("w", newline="", encoding="utf-8") as file:
            write(rows, file, options.output.suffix)
    else:
        write(rows, sys.stdout, ".txt")
    for failure in failures:
        logger.error("not transcribed: %s", failure)
    return 1 if failures else 0


def check_options(options: argparse.Namespace) -> None:
    """Refuse what would fail later.

    Raises:
        ValueError: The output's suffix names no format, or it would overwrite a file, or the batch is empty.
    """
    if options.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, not {options.batch_size}")
    if options.output is None:
        return
    if options.output.suffix not in (".jsonl", ".csv", ".txt"):
        raise ValueError(f"--output must end in .jsonl, .csv or .txt, not {options.output.name}")
    if options.output.exists():
        raise ValueError(f"{options.output} exists; name another --output, or remove it first")


def audio_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The audio files among and below ``paths``, sorted inside each folder.

    Raises:
        ValueError: A path does not exist.
    """
    from asr_lightning.data.audio import AUDIO_SUFFIXES

    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (p for p in found if p.is_file() and (p == path or p.suffix.lower() in AUDIO_SUFFIXES))


def transcribe_files(files: list[Path], options: argparse.Namespace) -> tuple[list[dict[str, object]], list[str]]:
    """Rows of file, seconds and text in the order of ``files``, and a message for each file that was refused."""
    from asr_lightning.recognizer import load

    recognizer = load(
        options.model,
        device=options.device,
        language=options.language,
        native=options.native,
        batch_size=options.batch_size,
    )
    clips, failures = [], []
    for file in files:
        try:
            clips.append(recognizer.clip(file))
        except ValueError as error:
            failures.append(str(error))
    rows = [
        {"file": clip.uid, "seconds": round(found.seconds, 3), "text": found.text}
        for clip, found in zip(clips, recognizer.read(clips), strict=True)
    ]
    return rows, failures


def write(rows: list[dict[str, object]], file: TextIO, suffix: str) -> None:
    """Write ``rows`` as JSON lines, CSV, or one text a line."""
    if suffix == ".csv":
        writer = csv.DictWriter(file, ["file", "seconds", "text"])
        writer.writeheader()
        writer.writerows({**row, "text": spreadsheet_cell(str(row["text"]))} for row in rows)
        return
    for row in rows:
        file.write(
            (json.dumps(row, ensure_ascii=False) if suffix == ".jsonl" else f"{row['file']}\t{row['text']}") + "\n"
        )
