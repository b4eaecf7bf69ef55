"""The steps of an export that need torch or may crash; ``run.py`` calls each in a process of its own."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


def save(request: Mapping[str, Any]) -> None:
    """Save the model ``request["model"]`` as its makers use it to the folder ``request["target"]``."""
    from asr_lightning.adapters import registry

    target = Path(request["target"])
    target.mkdir(parents=True)
    registry.build(request["model"]).native().save(target)


def convert(request: Mapping[str, Any]) -> dict[str, Any]:
    """Write a format to ``request["target"]``; returns its settings and what is wrong with its files."""
    converter = importlib.import_module(request["converter"])
    source, target = Path(request["source"]), Path(request["target"])
    settings = dict(converter.convert(source, target, request["variant"]))
    return {"settings": settings, "problems": converter.problems(source, target, settings)}


def problems(request: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the files in ``request["target"]``, which a converter wrote with these settings."""
    converter = importlib.import_module(request["converter"])
    found: list[str] = converter.problems(Path(request["source"]), Path(request["target"]), request["settings"])
    return found


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of those of ``packages`` that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
