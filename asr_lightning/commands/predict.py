"""``predict``: read audio files with a saved model, and write their texts. Needs no transcripts and no trainer."""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from asr_lightning.text import spreadsheet_cell

if TYPE_CHECKING:
    from asr_lightning.types import AudioLimits, Utterance

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The options of ``predict``."""
    options = argparse.ArgumentParser(prog="python -m asr_lightning predict", description=__doc__)
    options.add_argument("paths", nargs="+", type=Path, help="audio files, or folders of them")
    options.add_argument("--model", required=True, help="a model folder, such as runs/demo/model, or a name")
    options.add_argument("--output", type=Path, help="FILE.jsonl, FILE.csv or FILE.txt; without it, to the terminal")
    options.add_argument("--batch_size", type=int, default=16)
    options.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    options.add_argument("--native", action="store_true", help="read audio as the untouched model does")
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
    from asr_lightning.audio import AUDIO_SUFFIXES

    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist")
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (p for p in found if p.is_file() and (p == path or p.suffix.lower() in AUDIO_SUFFIXES))


def transcribe_files(files: list[Path], options: argparse.Namespace) -> tuple[list[dict[str, object]], list[str]]:
    """Rows of file, seconds and text in the order of ``files``, and a message for each file that was refused."""
    from asr_lightning import registry
    from asr_lightning.devices import accelerator_in_use
    from asr_lightning.evaluation import transcribe_all

    adapter = registry.build(options.model)
    adapter = adapter.native() if options.native else adapter
    device = accelerator_in_use(options.device)
    adapter.model.to(device)
    clips, failures = load_all(files, adapter.limits)
    clips.sort(key=lambda clip: clip.seconds)  # equal lengths share a batch
    collate = adapter.collator()
    batches = (collate(clips[i : i + options.batch_size]) for i in range(0, len(clips), options.batch_size))
    texts = {t.uid: t.hypothesis for t in transcribe_all(adapter, batches, device)}
    seconds = {clip.uid: round(clip.seconds, 3) for clip in clips}
    rows = [{"file": str(f), "seconds": seconds[str(f)], "text": texts[str(f)]} for f in files if str(f) in texts]
    return rows, failures


def load_all(files: list[Path], limits: AudioLimits) -> tuple[list[Utterance], list[str]]:
    """Utterances of the files within ``limits``, and a message for each of the others."""
    import torch

    from asr_lightning.audio import AudioError, load
    from asr_lightning.types import Utterance

    clips, failures = [], []
    for file in files:
        try:
            clip = Utterance(str(file), torch.from_numpy(load(file, limits.sample_rate)), limits.sample_rate, text="")
        except AudioError as error:
            failures.append(str(error))
            continue
        if limits.max_seconds is not None and clip.seconds > limits.max_seconds:
            failures.append(f"{file}: {clip.seconds:.1f} s, and this model reads {limits.max_seconds:g} s; cut it")
        elif clip.seconds < limits.min_seconds:
            failures.append(f"{file}: {clip.seconds:.2f} s is shorter than {limits.min_seconds:g} s")
        else:
            clips.append(clip)
    return clips, failures


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
