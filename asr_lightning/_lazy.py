"""Public names: imports them on first use, so that importing a package does not import torch, and gives their paths."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from asr_lightning.errors import missing_extra


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the module-level ``__getattr__`` (PEP 562) of ``package``.

    Args:
        package: The ``__name__`` of the package.
        homes: For each public name the module of ``package`` that defines it. A name that equals its module stands for
            the module itself.
    """

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(f"{package}.{homes[name]}")
        except ModuleNotFoundError as error:
            if missing := missing_extra(error, f"{package}.{name}"):
                raise missing from error
            raise
        return module if homes[name] == name else getattr(module, name)

    return load


def class_path(adapter: type) -> str:
    """The path of an adapter's class in configurations and saved models: the one that its package exports."""
    return f"{adapter.__module__.removesuffix('.adapter')}.{adapter.__qualname__}"
