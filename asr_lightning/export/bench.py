"""Measures models beside each other on the machine at hand: error rate, time, memory and size. Loads no torch.

Each is loaded in a process of its own, as a user would load it; ``bench-device`` prints the table and the picture.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import jinja2

from asr_lightning.adapters import model_files, registry, saved
from asr_lightning.export.child import ChildError
from asr_lightning.export.measure import Reading, measure
from asr_lightning.export.source import Source
from asr_lightning.runtime import exported
from asr_lightning.runtime.contract import Decoding
from asr_lightning.scoring.edits import score
from asr_lightning.scoring.text import normalizer

COLUMNS = ("WER", "MB", "median ms", "p95 ms", "CPU ms", "CPU ratio", "real time", "peak MB", "load s")


@dataclass(frozen=True)
class Row:
    """What was measured of one model.

    Attributes:
        name: The model and its runtime, for people.
        wer: Corpus WER on the clips, as a fraction.
        megabytes: Size of its files; 0 if it was loaded by name.
        median_ms: Median time for a clip in milliseconds.
        p95_ms: 95th percentile of that time.
        cpu_ms: Mean CPU time for a clip in milliseconds, over all threads.
        cpu_ratio: That time as a share of the first row's.
        real_time: Time for all clips as a share of their length; below 1 is faster than speech.
        peak_memory_mb: Peak memory of the process.
        load_seconds: Time until the model was loaded.
    """

    name: str
    wer: float
    megabytes: float
    median_ms: float
    p95_ms: float
    cpu_ms: float
    cpu_ratio: float
    real_time: float
    peak_memory_mb: float
    load_seconds: float

    @property
    def cells(self) -> tuple[str, ...]:
        """The figures as text, in the order of ``COLUMNS``."""
        return (
            f"{self.wer:.1%}",
            f"{self.megabytes:.0f}",
            f"{self.median_ms:.0f}",
            f"{self.p95_ms:.0f}",
            f"{self.cpu_ms:.0f}",
            f"{self.cpu_ratio:.2f}",
            f"{self.real_time:.3f}",
            f"{self.peak_memory_mb:.0f}",
            f"{self.load_seconds:.1f}",
        )


@dataclass(frozen=True)
class Bench:
    """What was measured on one machine.

    Attributes:
        machine: Processor and number of cores.
        clips: Number of clips.
        clips_are: What the clips are, in words.
        threads: Number of threads.
        rows: The models, in the order in which they were named.
        failed: Why models could not be measured, by name.
    """

    machine: str
    clips: int
    clips_are: str
    threads: int
    rows: tuple[Row, ...]
    failed: dict[str, str]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``bench.json`` and the picture ``bench.svg``; returns their paths."""
        folder.mkdir(parents=True, exist_ok=True)
        figures, picture = folder / "bench.json", folder / "bench.svg"
        figures.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        picture.write_text(self.picture(), encoding="utf-8")
        return figures, picture

    def table(self) -> str:
        """The rows as text, for the terminal."""
        width = max((len(row.name) for row in self.rows), default=0) + 2
        heads = "".join(f"{head:>11}" for head in COLUMNS)
        lines = [
            f"{self.machine}; {self.clips} clips ({self.clips_are}), {self.threads} "
            f"thread{'s' if self.threads > 1 else ''}, one clip at a time",
            "",
            f"{'model':{width}}{heads}",
            *(f"{row.name:{width}}{''.join(f'{cell:>11}' for cell in row.cells)}" for row in self.rows),
            *(f"{name}: not measured: {reason}" for name, reason in self.failed.items()),
        ]
        return "\n".join(lines)

    def picture(self) -> str:
        """The rows as an SVG picture: CPU time and error rate of each model."""
        loader = jinja2.PackageLoader("asr_lightning.export")
        environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
        return environment.get_template("bench.svg.j2").render(
            bench=self,
            longest=max((len(row.name) for row in self.rows), default=0),
            slowest=max((row.cpu_ms for row in self.rows), default=1) or 1,
            worst=max((row.wer for row in self.rows), default=1) or 1,
        )


def models_of(exports: Path) -> list[str]:
    """The folders below ``exports`` that ``export`` wrote, and that something here can run."""
    found = []
    for folder in sorted(exports.iterdir()) if exports.is_dir() else ():
        record = exported.record(folder)
        if record is not None and record.measured is not None:
            found.append(str(folder))
    return found


def bench(
    models: Sequence[tuple[str, Decoding]],
    source: Source,
    threads: int = 1,
    finished: Callable[[str], None] = lambda name: None,
) -> Bench:
    """Measure ``models`` on the clips of ``source``, one after another.

    Args:
        models: Folders or names of models, each with how it is decoded. Ratios are to the first that can be measured.
        source: The clips, and the normaliser of their texts.
        threads: Number of threads.
        finished: Called with the name of each model that was measured.
    """
    normalize = normalizer(source.normalizer)
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for model, decoding in models:
        name = name_of(model, decoding)
        try:
            reading = measure(model, source.clips, decoding, threads)
        except (ChildError, ValueError) as error:
            failed[name] = str(error)
            continue
        wer = score(reading.transcripts(source.clips), normalize).wer
        rows.append(_row(name, model, reading, wer, rows[0].cpu_ms if rows else None))
        finished(name)
    return Bench(machine(), len(source.clips), source.clips_are, threads, tuple(rows), failed)


def _row(name: str, model: str, reading: Reading, wer: float, first_cpu_ms: float | None) -> Row:
    cpu_ms = reading.mean_cpu_ms
    return Row(
        name=name,
        wer=wer,
        megabytes=megabytes(Path(model).expanduser()),
        median_ms=reading.median_ms,
        p95_ms=reading.p95_ms,
        cpu_ms=cpu_ms,
        cpu_ratio=cpu_ms / first_cpu_ms if first_cpu_ms else 1.0,
        real_time=sum(reading.wall_ms) / 1000 / reading.audio_seconds,
        peak_memory_mb=reading.peak_memory_mb,
        load_seconds=reading.load_seconds,
    )


def name_of(model: str, decoding: Decoding) -> str:
    """The model, its format and how it is read, for people."""
    record = exported.record(model)
    if record is None:
        name, is_whisper = f"{_short(model)}, torch", "whisper" in registry.choose(model).adapter
    else:
        name = f"{_short(record.run or record.model)}, {record.format} {record.variant}"
        is_whisper = record.family == "whisper"
    context = ""
    if is_whisper and (decoding.native or _is_untouched(model)):
        context = ", 30 s window"
    elif record is not None and "margin_seconds" in record.settings:
        context = f", margin {record.settings['margin_seconds']:g} s"
    return f"{name}{context}{f', beam {decoding.beam}' if decoding.beam > 1 else ''}"


def _short(model: str) -> str:
    path = Path(model)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def _is_untouched(model: str) -> bool:
    record = exported.record(model)
    if record is not None:
        return record.settings.get("true_length") is False
    return saved.record(registry.choose(model).source) is None


def megabytes(folder: Path) -> float:
    """Size of the files in ``folder`` that a device needs, in MB; 0 if it is no folder."""
    if not folder.is_dir():
        return 0.0
    if exported.record(folder) is None:
        return sum(path.stat().st_size for path in model_files.weights(folder)) / 1e6
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def machine() -> str:
    """Processor and number of cores of this machine."""
    names = Path("/proc/cpuinfo")
    name = platform.processor() or platform.machine()
    if names.is_file():
        lines = [line.partition(":")[2].strip() for line in names.read_text().splitlines() if "model name" in line]
        name = lines[0] if lines else name
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"
