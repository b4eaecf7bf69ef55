"""A folder that ``export`` wrote: its record ``export.json``, and the model that is loaded from it. Loads no torch."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

from asr_lightning.adapters import model_files
from asr_lightning.errors import EXTRAS, MissingExtraError, ModelError
from asr_lightning.runtime.contract import RuntimeModel
from asr_lightning.runtime.formats import FORMATS, Target

FILE_NAME = "export.json"
ELSEWHERE = {"whisper": "openai-whisper"}
"""Names of distributions by their packages, for those that no extra of ours brings."""


@dataclass(frozen=True)
class Measured:
    """What was measured on the test split when the folder was written.

    Attributes:
        clips: Number of clips.
        wer: WER in the runtime, as a fraction.
        torch_wer: WER of the same model in torch.
        same_text: Share of clips with the text that torch writes.
        median_ms: Median time for a clip, in milliseconds, with one thread.
        p95_ms: 95th percentile of that time.
        cpu_ms: Mean CPU time for a clip, in milliseconds.
        peak_memory_mb: Largest memory of the process that read the clips.
    """

    clips: int
    wer: float
    torch_wer: float
    same_text: float
    median_ms: float
    p95_ms: float
    cpu_ms: float
    peak_memory_mb: float


@dataclass(frozen=True)
class ExportRecord:
    """The content of ``export.json``.

    Attributes:
        format: Name of the format.
        variant: Variant of the weights.
        family: Family of the model.
        model: The untouched model, as the run named it.
        settings: Settings that belong to the weights, such as how much audio the encoder gets.
        files: SHA-256 of each other file in the folder, by its path in it.
        tools: Versions of the packages that took part.
        measured: What was measured; None if nothing here can run the format.
        source_sha256: SHA-256 of the weights that were converted.
        run: Name of the run that trained the model; empty if it was not trained here.
        note: What a user must know, such as that nobody has run the format; empty if there is nothing.
    """

    format: str
    variant: str
    family: str
    model: str
    settings: Mapping[str, object]
    files: Mapping[str, str]
    tools: Mapping[str, str]
    measured: Measured | None
    source_sha256: str
    run: str = ""
    note: str = ""

    def text(self) -> str:
        """The content of the file."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    def write(self, folder: Path) -> None:
        """Write the record to ``folder``."""
        (folder / FILE_NAME).write_text(self.text(), encoding="utf-8")


def record(folder: str | Path) -> ExportRecord | None:
    """Return the record in ``folder``; None if ``export`` did not write the folder.

    Raises:
        ModelError: The record cannot be read.
    """
    path = Path(folder).expanduser() / FILE_NAME
    if not path.is_file():
        return None
    content = model_files.read_object(path)
    try:
        measured = content.pop("measured")
        return ExportRecord(**content, measured=Measured(**measured) if measured else None)
    except (TypeError, KeyError) as error:
        raise ModelError(f"{path} cannot be read ({error!r}): export the model again") from error


def sha256_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file below ``folder`` except the record, by its path in it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / FILE_NAME)
    return {path.relative_to(folder).as_posix(): _sha256(path) for path in files}


def sha256_of_text(text: str) -> str:
    """Return the SHA-256 of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load(folder: str | Path, threads: int = 0) -> RuntimeModel:
    """Load the model in ``folder``.

    Args:
        folder: A folder that ``export`` wrote.
        threads: Number of threads; 0 takes one for each core.

    Raises:
        ModelError: The folder was not written by ``export``, lacks files, or nothing here can run its format.
        MissingExtraError: The package that runs it is not installed.
    """
    folder = Path(folder).expanduser()
    found = record(folder)
    if found is None:
        raise ModelError(f"{folder} holds no {FILE_NAME}: make one with python -m asr_lightning export RUN --to FORMAT")
    target = _target(folder, found)
    if missing := [name for name in found.files if not (folder / name).is_file()]:
        raise ModelError(f"{folder} lacks {missing[0]}: copy the whole folder again")
    modules = target.format.modules.get(found.family)
    if modules is None or modules.runtime is None:
        raise ModelError(f"{folder} is for {target.format.used_by}, and cannot be run here")
    require_packages(target, str(folder))
    module = importlib.import_module(modules.runtime)
    model: RuntimeModel = module.load(folder, found.settings, threads or os.cpu_count() or 1)
    return model


def require_packages(target: Target, needed_by: str) -> None:
    """Require that the packages of the runtime of ``target`` are installed; messages begin with ``needed_by``.

    Raises:
        MissingExtraError: One of them is not.
    """
    for package in target.format.packages:
        if find_spec(package) is None:
            wanted = ELSEWHERE.get(package) or f"'asr-lightning[{EXTRAS[package]}]'"
            raise MissingExtraError(f"{needed_by} needs {package}, which is not installed here: pip install {wanted}")


def _target(folder: Path, found: ExportRecord) -> Target:
    for known in FORMATS:
        if known.name == found.format:
            return Target(known, found.variant)
    raise ModelError(f"{folder} has the format {found.format!r}, which this version does not know: update it")
