"""Exports a model: converts it, reads the clips in the runtime that will run it, and keeps what is as good as torch.

Each step runs in a process of its own. What is refused leaves no folder behind. Loads no torch itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from asr_lightning.adapters import model_files, saved
from asr_lightning.errors import OptionError
from asr_lightning.export import child, gate, tasks
from asr_lightning.export.card import card_text
from asr_lightning.export.child import ChildError
from asr_lightning.export.gate import Context
from asr_lightning.export.measure import Reading, measure
from asr_lightning.export.model_folder import saved_folder, with_margin
from asr_lightning.export.place import find as find_place
from asr_lightning.export.source import Source
from asr_lightning.runtime import exported
from asr_lightning.runtime.contract import Decoding
from asr_lightning.runtime.exported import ExportRecord, Measured
from asr_lightning.runtime.formats import FLOAT, FORMATS, Target
from asr_lightning.scoring.text import normalizer

logger = logging.getLogger(__name__)

SECONDS = 1800.0
CARD = "README.md"
COLUMNS = f"{'format':24}{'WER':>8}{'in torch':>10}{'same text':>11}{'MB':>8}{'CPU ms a clip':>15}{'peak MB':>9}"
TOOLS = ("asr-lightning", "torch", "transformers", "onnx", "onnxscript")


class RefusedError(RuntimeError):
    """An export is not as good as torch, or was not finished.

    Attributes:
        problems: Why, as sentences.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Result:
    """What became of one target.

    Attributes:
        target: Format and variant.
        folder: Folder that was written; None if the export was refused.
        record: Content of its ``export.json``; None if it was refused.
        problems: Why it was refused.
    """

    target: Target
    folder: Path | None
    record: ExportRecord | None
    problems: tuple[str, ...] = ()

    @property
    def megabytes(self) -> float:
        """Size of the folder in MB."""
        files = self.folder.rglob("*") if self.folder else ()
        return sum(path.stat().st_size for path in files if path.is_file()) / 1e6

    @property
    def row(self) -> str:
        """The result as a row of the table."""
        name = f"{self.target.name:24}"
        if self.record is None:
            return f"{name}refused: {'; '.join(self.problems)}"
        if (measured := self.record.measured) is None:
            return f"{name}{'not measured':>18}{self.megabytes:>19.0f}   {self.record.note}"
        return (
            f"{name}{measured.wer:>8.1%}{measured.torch_wer:>10.1%}{measured.same_text:>11.0%}"
            f"{self.megabytes:>8.0f}{measured.cpu_ms:>15.0f}{measured.peak_memory_mb:>9.0f}"
        )


@dataclass(frozen=True)
class Exports:
    """All targets of one model.

    Attributes:
        source: The model, and the clips that it was compared on.
        results: What became of each target.
    """

    source: Source
    results: tuple[Result, ...]

    @property
    def is_complete(self) -> bool:
        """Whether nothing was refused."""
        return all(result.folder for result in self.results)

    @property
    def table(self) -> str:
        """What was written and what was refused, for the terminal."""
        source = self.source
        lines = [f"{source.name}, compared on {len(source.clips)} clips: {source.clips_are}", "", COLUMNS]
        lines += [result.row for result in self.results]
        return "\n".join([*lines, "", *(f"{each.target.name}: {each.folder}" for each in self.results if each.folder)])


def targets_of(family: str) -> list[Target]:
    """The default variant of every format that takes ``family`` and whose packages are installed."""
    return [
        Target(known, known.default)
        for known in FORMATS
        if family in known.families and all(map(find_spec, known.packages))
    ]


def export(source: Source, targets: Sequence[Target], seconds: float = SECONDS) -> Exports:
    """Export ``source`` to each of ``targets``.

    Args:
        source: The model, and the clips to compare on.
        targets: Formats and variants.
        seconds: Time limit for each step, in seconds.

    Raises:
        OptionError: A format does not take models of this family, or a folder in the way was not written by ``export``.
        MissingExtraError: A package is not installed.
        ChildError: Torch itself cannot read the clips.
    """
    require_formats(targets, source.family, source.model)
    for target in targets:
        _require_place(source.exports / target.folder)
    with saved_folder(source, seconds) as model, with_margin(model, source) as converted:
        reader = _Torch(source, model, seconds)
        return Exports(source, tuple(_export(source, converted, target, reader, seconds) for target in targets))


def require_formats(targets: Sequence[Target], family: str, model: str) -> None:
    """Refuse formats that cannot succeed, before time is spent.

    Args:
        targets: Formats and variants.
        family: Family of the model, as formats name it.
        model: The model as the user named it.

    Raises:
        OptionError: A format does not take models of this family.
        MissingExtraError: A package is not installed.
    """
    for target in targets:
        if family not in target.format.families:
            takes = ", ".join(known.name for known in FORMATS if family in known.families)
            raise OptionError(f"{target.format.name} takes no {family} models such as {model}: give --to {takes}", "to")
        exported.require_packages(target, target.name)


def _require_place(folder: Path) -> None:
    if folder.exists() and exported.record(folder) is None:
        raise OptionError(f"{folder} is no earlier export: remove it, or name another --output", "output")


class _Torch:
    """What torch reads in the clips, once for each context."""

    def __init__(self, source: Source, model: Path, seconds: float) -> None:
        self._source, self._model, self._seconds = source, model, seconds
        self._readings: dict[bool, Reading] = {}

    def reading(self, native: bool) -> Reading:
        if native not in self._readings:
            logger.info("torch reads %d clips%s", len(self._source.clips), " in the 30 s window" if native else "")
            decoding = Decoding(native=native)
            self._readings[native] = measure(self._model, self._source.clips, decoding, seconds=self._seconds)
        return self._readings[native]


def _export(source: Source, model: Path, target: Target, torch: _Torch, seconds: float) -> Result:
    logger.info("%s: converting, then reading %d clips with it", target.name, len(source.clips))
    folder = source.exports / target.folder
    records: list[ExportRecord] = []
    try:
        saved.replace(folder, lambda fresh: records.append(_write(source, model, target, torch, seconds, fresh)))
    except RefusedError as error:
        return Result(target, None, None, error.problems)
    except (ChildError, ValueError) as error:
        return Result(target, None, None, (str(error),))
    return Result(target, folder, records[0])


def _write(source: Source, model: Path, target: Target, torch: _Torch, seconds: float, folder: Path) -> ExportRecord:
    """Write the format and its record to ``folder``, if it is as good as torch."""
    request = {
        "converter": target.format.modules[source.family].converter,
        "source": str(model),
        "target": str(folder),
        "variant": target.variant,
    }
    written = child.call("asr_lightning.export.tasks:convert", request, seconds)
    if written["problems"]:
        raise RefusedError(written["problems"])
    unmeasured = ExportRecord(
        format=target.format.name,
        variant=target.variant,
        family=source.family,
        model=source.name,
        settings=written["settings"],
        files=exported.sha256_of(folder),
        tools=tasks.versions((*TOOLS, *target.format.packages)),
        measured=None,
        source_sha256=_weights_sha256(model),
        run=source.run,
        note=target.format.note,
    )
    unmeasured.write(folder)
    record = unmeasured
    if target.format.modules[source.family].runtime is not None:
        record = replace(unmeasured, measured=measured_in(folder, source, target, torch.reading, seconds))
        record.write(folder)
    (folder / CARD).write_text(card_text(find_place(folder), source.run or source.name), encoding="utf-8")
    record = replace(record, files=exported.sha256_of(folder))
    record.write(folder)
    return record


def measured_in(
    folder: Path, source: Source, target: Target, torch: Callable[[bool], Reading], seconds: float = SECONDS
) -> Measured:
    """Read the clips with the export in ``folder``, as a user would load it, and compare the texts.

    Args:
        folder: A folder with its record.
        source: The model and the clips.
        target: Format and variant in the folder.
        torch: Returns what torch reads; its argument says whether natively.
        seconds: Time limit for each reading, in seconds.

    Raises:
        RefusedError: The export is not as good as torch.
        ChildError: The runtime has crashed, or took too long.
    """
    normalize = normalizer(source.normalizer)
    contexts = [Context("", torch(False), measure(folder, source.clips, seconds=seconds))]
    if source.family == "whisper" and target.variant == FLOAT and target.format.same_text:
        native = Decoding(native=True)
        contexts.append(Context("30 s window", torch(True), measure(folder, source.clips, native, seconds=seconds)))
    if problems := gate.text_problems(target, contexts, source.clips, normalize):
        raise RefusedError(problems)
    used = contexts[0]
    return Measured(
        clips=len(source.clips),
        wer=used.runtime.wer(source.clips, normalize),
        torch_wer=used.torch.wer(source.clips, normalize),
        same_text=used.same_text,
        median_ms=used.runtime.median_ms,
        p95_ms=used.runtime.p95_ms,
        cpu_ms=used.runtime.mean_cpu_ms,
        peak_memory_mb=used.runtime.peak_memory_mb,
    )


def _weights_sha256(model: Path) -> str:
    """One hash over all files with weights."""
    hashes = exported.sha256_of(model)
    names = {path.name for path in model_files.weights(model)} or set(hashes)
    return exported.sha256_of_text("".join(hashes[name] for name in sorted(names)))
