"""What is exported: a model, its family, and the clips that prove each export. Loads no torch."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from asr_lightning.adapters import registry
from asr_lightning.data.folder import scan_folder
from asr_lightning.data.rows import Row
from asr_lightning.data.splits import plan_splits
from asr_lightning.errors import DataError, ModelError
from asr_lightning.export.measure import Clip
from asr_lightning.runtime import exported
from asr_lightning.runtime.exported import ExportRecord

FAMILIES = {
    "WhisperAdapter": "whisper",
    "MoonshineAdapter": "moonshine",
    "HFCTCAdapter": "ctc",
    "HFTransducerAdapter": "transducer",
    "NeMoAdapter": "nemo",
}
"""Families that formats name, by the class of the adapter."""
CONFIG, SEEDS = "config.yaml", "seeds.json"
CANARY = Path(__file__).parents[1] / "canary_clips"
NUM_CANARY = 50

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A model that is exported.

    Attributes:
        model: Its folder, or its name if it is an untouched model.
        name: The untouched model, as the run named it.
        run: Name of the run that trained it; empty if there is none.
        family: Its family, as formats name it.
        clips: The clips that the exports are compared on.
        clips_are: What these clips are, in words.
        normalizer: Name of the text normaliser.
        exports: Folder that the exports are written to, each in a folder of its own.
        margin_seconds: Silence after a clip at true length, in the exports; None for what the model was saved with.
    """

    model: str
    name: str
    run: str
    family: str
    clips: tuple[Clip, ...]
    clips_are: str
    normalizer: str
    exports: Path
    margin_seconds: float | None = None


def find(run_or_model: str, data: Path | None = None, output: Path | None = None) -> Source:
    """Find the model that ``run_or_model`` stands for, and the clips to compare its exports on.

    Args:
        run_or_model: The folder of a finished run, of a saved model or of an export, or the name of a model.
        data: Folder with recordings and transcripts; None takes the test split of the run, or else bundled speech of
            other people.
        output: Folder for the exports; None takes ``exports`` in the folder of the run or beside that of the model.

    Raises:
        ModelError: There is no such run or model, or its family has no formats.
        DataError: There are no clips.
    """
    path = Path(run_or_model).expanduser()
    record = exported.record(path)
    if record is not None:
        return _of_export(path, record, data)
    run_dir = _run_dir(path)
    model = str(run_dir / "model") if run_dir else run_or_model
    family = family_of(model)
    config = _config(run_dir) if run_dir else {}
    clips, clips_are = _clips(run_dir, config, data, registry.language(registry.choose(model).source, None))
    return Source(
        model=model,
        name=_name(config, run_or_model),
        run=run_dir.absolute().name if run_dir else "",
        family=family,
        clips=clips,
        clips_are=clips_are,
        normalizer=config.get("model", {}).get("normalizer", "basic"),
        exports=output or _place(run_dir, Path(run_or_model)),
    )


def family_of(model: str) -> str:
    """The family of ``model``, as formats name it.

    Raises:
        ModelError: There is no such model, or no format takes its family.
    """
    adapter = registry.choose(model).adapter
    family = FAMILIES.get(adapter.rpartition(".")[2])
    if family is None:
        raise ModelError(f"{model}: there is no format for models of {adapter}")
    return family


def _of_export(folder: Path, record: ExportRecord, data: Path | None) -> Source:
    """The source that an export was made from, as far as it is on this machine; the export stands for the model."""
    above = folder.absolute().parents[1]
    run_dir = above if (above / CONFIG).is_file() else None
    config = _config(run_dir) if run_dir else {}
    language = record.settings.get("language")
    clips, clips_are = _clips(run_dir, config, data, str(language) if language else None)
    normalizer = config.get("model", {}).get("normalizer", "basic")
    return Source(str(folder), record.model, record.run, record.family, clips, clips_are, normalizer, folder.parent)


def _run_dir(path: Path) -> Path | None:
    """The folder of the run that ``path`` is or whose model it is; None if it is neither.

    Raises:
        ModelError: It is a run without a model.
    """
    for folder in (path, path.parent) if path.name == "model" else (path,):
        if (folder / CONFIG).is_file() or (folder / SEEDS).is_file():
            if not (folder / "model").is_dir():
                raise ModelError(f"{folder} holds no model: let the run finish, as in fit --ckpt_path last")
            return folder
    return None


def _config(run_dir: Path) -> dict[str, Any]:
    """The options of the run; those of its first seed if it has several."""
    path = next(iter([*run_dir.glob(CONFIG), *sorted(run_dir.glob(f"seed-*/{CONFIG}"))]), run_dir / CONFIG)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, FileNotFoundError) as error:
        raise ModelError(f"{path} cannot be read ({error}): copy the run folder again") from error
    return content if isinstance(content, dict) else {}


def _name(config: dict[str, Any], run_or_model: str) -> str:
    """The untouched model by the name that the run gave it."""
    adapter = config.get("model", {}).get("adapter", {})
    return str(adapter.get("init_args", {}).get("source", run_or_model))


def _place(run_dir: Path | None, path: Path) -> Path:
    if run_dir is not None:
        return run_dir / "exports"
    return path.parent / "exports" if path.expanduser().is_dir() else Path("runs") / path.name / "exports"


def _clips(
    run_dir: Path | None, config: dict[str, Any], data: Path | None, language: str | None
) -> tuple[tuple[Clip, ...], str]:
    """The clips to compare on, and what they are."""
    if data is not None:
        return _of_rows(data, scan_folder(data)), f"all clips of {data}"
    audio_dir = Path(config.get("data", {}).get("audio_dir", ""))
    if run_dir is not None and config.get("data"):
        if audio_dir.is_dir():
            return _of_run(run_dir, audio_dir, config["data"])
        logger.warning("the recordings of the run are not in %s: give --data FOLDER to compare on them", audio_dir)
    folder = CANARY / (language or "en")
    if not folder.is_dir():
        raise DataError(
            f"there are no clips to compare on, and none are bundled for the language {language}: give --data FOLDER "
            "with recordings and transcripts"
        )
    clips = _of_rows(folder, scan_folder(folder))
    return clips[:: max(1, len(clips) // NUM_CANARY)], f"bundled speech of other people ({folder.name})"


def _of_run(run_dir: Path, audio_dir: Path, settings: dict[str, Any]) -> tuple[tuple[Clip, ...], str]:
    plan = plan_splits(audio_dir, settings["shares"], settings["seed"], run_dir, allow_text_leak=True)
    if plan.splits["test"]:
        return _of_rows(audio_dir, plan.splits["test"]), "the test clips of the run"
    rows = tuple(row for split in plan.splits.values() for row in split)
    return _of_rows(audio_dir, rows), "all clips of the run, since it has no test split"


def _of_rows(folder: Path, rows: tuple[Row, ...]) -> tuple[Clip, ...]:
    if not rows:
        raise DataError(f"{folder} holds no recordings with transcripts: give --data another folder")
    return tuple(Clip(row.uid, (folder / row.file_name).absolute(), row.text) for row in rows)
