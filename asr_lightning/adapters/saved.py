"""What a saved model says of itself: one small JSON file beside upstream's own files. Loads no torch.

Adapters write it; ``predict`` and ``test`` read it to know which adapter, with which options, wrote a folder.
"""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

FILE_NAME = "asr_lightning.json"
VERBS = ("collator", "loss", "transcribe", "evaluate", "evaluating", "native", "save")


def describe(directory: Path, adapter: object, init_args: dict[str, Any]) -> None:
    """Record that ``adapter``, built with ``init_args``, wrote ``directory``."""
    content = {"adapter": class_path(adapter), "init_args": init_args}
    (directory / FILE_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def class_path(adapter: object) -> str:
    """How configurations and saved models name the class of ``adapter``: a family's package hands it on."""
    kind = type(adapter)
    return f"{kind.__module__.removesuffix('.adapter')}.{kind.__qualname__}"


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
    write(fresh)
    if target.exists():
        target.rename(previous)
    fresh.rename(target)
    shutil.rmtree(previous, ignore_errors=True)


def record(directory: str | Path) -> dict[str, Any] | None:
    """``adapter`` and ``init_args`` of the folder ``directory``; None if this package did not write it.

    Raises:
        ValueError: The record cannot be read.
    """
    path = Path(directory).expanduser() / FILE_NAME
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return {"adapter": str(content["adapter"]), "init_args": dict(content["init_args"])}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error!r}): copy the model folder again") from error


def options(source: str, names: Iterable[str]) -> dict[str, Any]:
    """How the folder ``source`` was used when ``save`` wrote it, as far as ``names`` go; empty for other sources.

    A model that has learned one way of reading must not be read another way because an option was left out.
    """
    found = record(source)
    recorded = found["init_args"] if found else {}
    return {name: recorded[name] for name in names if recorded.get(name) is not None}


def settle(source: str, defaults: Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Each option of ``defaults``: as ``given``, unless None; else as ``source`` was saved with; else the default."""
    return {**defaults, **options(source, defaults), **{name: v for name, v in given.items() if v is not None}}


def load(directory: str | Path, **overrides: Any) -> Any:
    """The adapter that wrote ``directory``, loaded from it; ``overrides`` replace recorded options.

    Raises:
        ValueError: The folder was not written by this package, or its record cannot be read.
    """
    found = record(directory)
    if found is None:
        raise ValueError(
            f"{directory} holds no {FILE_NAME}: give the model folder of a finished run, such as runs/demo/model"
        )
    adapter = adapter_named(found["adapter"], directory)
    return adapter(str(Path(directory).expanduser()), **{**found["init_args"], **overrides})


def adapter_named(name: str, source: str | Path) -> Any:
    """The class ``name``, which ``source`` says that it is read by.

    Raises:
        ValueError: It cannot be imported, or it is no adapter. A folder may come from anywhere, and must not be able to
            name ``subprocess.Popen``.
    """
    module, _, leaf = name.rpartition(".")
    found = class_named(module, leaf)
    missing = [verb for verb in VERBS if not callable(getattr(found, verb, None))]
    if not isinstance(found, type) or len(missing) == len(VERBS):
        raise ValueError(f"{source} names {name}, which is no adapter: do not trust this folder")
    if missing:
        raise ValueError(f"{name} keeps an older contract, it has no {' and no '.join(missing)}: update its package")
    return found


def class_named(module: str, name: str) -> Any:
    """The class ``name`` of ``module``.

    Raises:
        ValueError: It cannot be imported.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"no adapter {module}.{name}: {error}") from error
