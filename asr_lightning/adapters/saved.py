"""What a saved model says of itself, in one small JSON file beside upstream's own files. Loads no torch.

Adapters write it; ``predict`` and ``test`` read it to know which adapter wrote a folder, and with which options.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_args, get_type_hints

from asr_lightning._lazy import class_path
from asr_lightning.adapters import model_files, old_names
from asr_lightning.errors import ModelError, missing_extra

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    Options = TypeVar("Options", bound=DataclassInstance)

FILE_NAME = "asr_lightning.json"
VERBS = ("collator", "loss", "transcribe", "evaluate", "evaluating", "native", "save")


class Record(NamedTuple):
    """The content of the file.

    Attributes:
        adapter: Class path of the adapter that wrote the folder.
        init_args: Options of the adapter, as plain JSON values.
    """

    adapter: str
    init_args: Mapping[str, object]


def describe(directory: str | Path, adapter: object, init_args: Mapping[str, object]) -> None:
    """Record that ``adapter`` wrote ``directory`` and had the options ``init_args``, some of which are dataclasses.

    This is the last step of ``save``: whoever may read the record may then read every other file.
    """
    content = Record(class_path(type(adapter)), init_args)._asdict()
    path = Path(directory) / FILE_NAME
    path.write_text(json.dumps(content, indent=2, default=dataclasses.asdict) + "\n", encoding="utf-8")
    _share_like(path)


def _share_like(record: Path) -> None:
    """Give the files beside ``record`` its permissions, which are those that the umask allows.

    safetensors writes through a temporary file that nobody but its owner may read.
    """
    allowed = record.stat().st_mode
    for path in record.parent.iterdir():
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode) and mode | allowed != mode:
            path.chmod(stat.S_IMODE(mode | allowed))


def replace(target: Path, write: Callable[[Path], None]) -> None:
    """Fill a fresh directory with ``write``, such as an adapter's ``save``, and put it in the place of ``target``.

    A kill at any moment leaves the old or the new directory whole, as ``target`` or as ``target.previous``.
    """
    fresh, previous = target.with_name(target.name + ".new"), target.with_name(target.name + ".previous")
    if not target.exists() and previous.exists():
        previous.rename(target)
    for leftover in (fresh, previous):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        write(fresh)
    except BaseException:  # above all a full disk, of which half a model would take much
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    if target.exists():
        target.rename(previous)
    fresh.rename(target)
    shutil.rmtree(previous, ignore_errors=True)


def record(directory: str | Path) -> Record | None:
    """The record in ``directory``; None if this package did not write the folder.

    Raises:
        ModelError: The record cannot be read.
    """
    path = Path(directory).expanduser() / FILE_NAME
    if not path.is_file():
        return None
    content = model_files.read_object(path)
    try:
        return Record(str(content["adapter"]), dict(content["init_args"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path} cannot be read ({error!r}): copy the model folder again") from error


def recorded_options(source: str, names: Iterable[str]) -> dict[str, object]:
    """Those of the options ``names`` that the folder ``source`` was saved with; empty for every other source."""
    saved = record(source)
    init_args = saved.init_args if saved else {}
    return {name: init_args[name] for name in names if init_args.get(name) is not None}


def resolve_options(source: str, defaults: Options, **chosen: object) -> Options:
    """Complete the options that a user has ``chosen``, where None means no choice.

    An option is as chosen, or else as ``source`` was saved with it, or else as in ``defaults``. A model that has
    learned one way of reading must not be read another way because an option was left out.
    """
    remembered = recorded_options(source, (field.name for field in dataclasses.fields(defaults)))
    chosen = {name: value for name, value in chosen.items() if value is not None}
    return dataclasses.replace(defaults, **{**remembered, **chosen})


def load(directory: str | Path, **overrides: object) -> Any:
    """Load the adapter that wrote ``directory`` from it; ``overrides`` replace recorded options.

    Raises:
        ModelError: The folder was not written by this package.
        ValueError: Its record cannot be read.
    """
    saved = record(directory)
    if saved is None:
        raise ModelError(
            f"{directory} holds no {FILE_NAME}: give the model folder of a finished run, such as runs/demo/model"
        )
    adapter = adapter_named(saved.adapter, directory)
    return build(adapter, str(Path(directory).expanduser()), {**saved.init_args, **overrides})


def build(adapter: Any, source: str, init_args: Mapping[str, object]) -> Any:
    """Make an instance of the class ``adapter``, with options as files hold them.

    Options that are dataclasses may be mappings, and options may have names of earlier versions.
    """
    init_args = old_names.renamed_init_args(f"{adapter.__module__}.{adapter.__qualname__}", init_args, source)
    has_mappings = any(isinstance(value, Mapping) for value in init_args.values())
    hints = get_type_hints(adapter.__init__) if has_mappings else {}
    return adapter(source, **{name: _typed(value, hints.get(name)) for name, value in init_args.items()})


def _typed(value: object, hint: Any) -> object:
    """``value`` as the dataclass that ``hint`` allows, if it is a mapping and there is one."""
    kinds = [kind for kind in (hint, *get_args(hint)) if dataclasses.is_dataclass(kind)]
    return kinds[0](**value) if kinds and isinstance(value, Mapping) else value  # type: ignore[operator]


def adapter_named(name: str, source: str | Path) -> Any:
    """Import the adapter class ``name``, which ``source`` names as its reader.

    Raises:
        ValueError: It cannot be imported, or it is no adapter. A folder may come from anywhere, and must not be able to
            name ``subprocess.Popen``.
    """
    module, _, leaf = name.rpartition(".")
    kind = class_named(module, leaf)
    missing = [verb for verb in VERBS if not callable(getattr(kind, verb, None))]
    if not isinstance(kind, type) or len(missing) == len(VERBS):
        raise ValueError(f"{source} names {name}, which is no adapter: do not trust this folder")
    if missing:
        raise ValueError(f"{name} keeps an older contract, it has no {' and no '.join(missing)}: update its package")
    return kind


def class_named(module: str, name: str) -> Any:
    """Import the class ``name`` of ``module``.

    Raises:
        MissingExtraError: It needs a package of an extra that is not installed.
        ValueError: It cannot be imported.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        missing = missing_extra(error, f"{module}.{name}")
        raise missing or ValueError(f"no adapter {module}.{name}: {error}") from error
