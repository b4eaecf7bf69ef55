"""What a folder holds that may be passed on: the model of a run, a model folder or an export. Loads no torch."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from asr_lightning.adapters import model_files, saved
from asr_lightning.errors import ModelError
from asr_lightning.runtime import exported
from asr_lightning.runtime.exported import ExportRecord

logger = logging.getLogger(__name__)

REPORT, MODEL = "report.json", "model"
SUFFIXES = (".safetensors", ".nemo", ".jinja")
NAMES = frozenset({*model_files.JSON_FILES, *model_files.OTHER_FILES, saved.FILE_NAME, "normalizer.json"})
MAX_LEVELS = 3
"""How many folders above an export its run is looked for."""


class Export(NamedTuple):
    """An export, and its size in MB."""

    record: ExportRecord
    megabytes: float


@dataclass(frozen=True)
class Place:
    """A folder that may be passed on.

    Attributes:
        folder: The model folder, or the export.
        record: What ``export`` wrote there; None if it is a model folder.
        run_dir: Folder of the run that made it; None if it is not in one.
    """

    folder: Path
    record: ExportRecord | None
    run_dir: Path | None

    @property
    def model(self) -> Path | None:
        """The model folder that it is or was made from; None if it is not here."""
        if self.record is None:
            return self.folder
        model = self.run_dir / MODEL if self.run_dir is not None else None
        return model if model is not None and model.is_dir() else None

    def files(self) -> list[Path]:
        """The files that belong to it. Whatever else lies there is left out, as recordings or checkpoints would be."""
        if self.record is not None:
            own = (name for name in sorted(self.record.files) if name != "README.md")
            return [self.folder / exported.FILE_NAME, *(self.folder / name for name in own)]
        there = sorted(path for path in self.folder.rglob("*") if path.is_file())
        known = [path for path in there if path.parent == self.folder and is_of_model(path.name)]
        for path in there:
            if path not in known and path.name != "README.md":
                logger.warning("%s is left out: it is no file of a model", path)
        return known

    def exports(self) -> list[Export]:
        """All exports of the run, or the one in this folder."""
        folders = [self.folder] if self.run_dir is None else [path.parent for path in _records(self.run_dir)]
        found = [(folder, exported.record(folder)) for folder in folders]
        return [Export(record, _megabytes(folder, record)) for folder, record in found if record is not None]


def is_of_model(name: str) -> bool:
    """Whether a file called ``name`` in a model folder is one that a library needs to load the model."""
    weights = (*model_files.WEIGHTS, *map(re.escape, model_files.ADAPTER_WEIGHTS))
    return name in NAMES or name.endswith(SUFFIXES) or any(re.fullmatch(pattern, name) for pattern in weights)


def find(path: str | Path) -> Place:
    """Find out what ``path`` is: a run, a model folder or an export.

    Raises:
        ModelError: It is none of them, or lacks files.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ModelError(f"there is no folder {folder}: give a run such as runs/demo, a model folder or an export")
    record = exported.record(folder)
    if record is not None:
        if missing := [name for name in record.files if not (folder / name).is_file()]:
            raise ModelError(f"{folder} lacks {missing[0]}: export the model again")
        return Place(folder, record, _run_above(folder))
    if (folder / MODEL).is_dir() and (folder / REPORT).is_file():
        return Place(folder / MODEL, None, folder)
    if not (folder / saved.FILE_NAME).is_file() and not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is no run, no model folder and no export: give a run such as runs/demo")
    model_files.refuse_broken(folder)
    return Place(folder, None, _run_above(folder))


def _run_above(folder: Path) -> Path | None:
    return next((above for above in folder.absolute().parents[:MAX_LEVELS] if (above / REPORT).is_file()), None)


def _megabytes(folder: Path, record: ExportRecord) -> float:
    paths = [folder / name for name in record.files]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def _records(run_dir: Path) -> list[Path]:
    """The records of exports in a run; its checkpoints are not searched."""
    return sorted({*run_dir.glob(f"*/{exported.FILE_NAME}"), *run_dir.glob(f"*/*/{exported.FILE_NAME}")})
