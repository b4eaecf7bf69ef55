"""The description of a run, the same for commands, the server, a rented GPU and Python. Loads no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from asr_lightning.adapters import registry
from asr_lightning.errors import OptionError

DEFAULT_MODEL = "whisper-tiny.en"
PLAIN = (str, int, float, PurePath)
REQUIRED = ("data", "run_dir", "model", "seed", "resume", "options")
KINDS: Mapping[str, tuple[Any, str]] = {
    "data": ((str, os.PathLike), "the path of a folder"),
    "run_dir": ((str, os.PathLike), "the path of a folder"),
    "model": ((str, os.PathLike), "the name of a model, or the path of its folder"),
    "language": (str, "a code such as 'de'"),
    "epochs": (int, "a whole number"),
    "seed": (int, "a whole number"),
    "budget": (str, "a time such as '5m'"),
    "canary": ((str, os.PathLike), "the path of a folder, 'bundled' or 'off'"),
    "export": (str, "formats such as 'ctranslate2'"),
    "accelerator": (str, "'auto', 'cpu', 'cuda' or 'mps'"),
    "resume": (bool, "True or False"),
    "options": (Mapping, "a dictionary"),
}
"""Types of the attributes of a ``RunSpec``, and how they are called in messages. Python does not check them itself."""


@dataclass(frozen=True)
class RunSpec:
    """One run. What is None is decided by the recipe of the model's family, or otherwise by the default of ``fit``.

    Attributes:
        data: Folder with recordings and transcripts.
        run_dir: Folder that the run writes all its files to.
        model: A name that ``python -m asr_lightning models`` lists, a hub id from that list, or a folder.
        language: Language code for a multilingual model, such as ``de``.
        epochs: Number of epochs; models that are trained in folds share them.
        seed: Seed of every random choice. On one machine, the same seed gives the same weights.
        budget: Time for the whole run, such as ``5m``.
        canary: Folder with speech of other people, which must not get worse; ``bundled``, or ``off``.
        export: Formats that the model is exported to at the end, such as ``ctranslate2,ggml:q5_1``.
        accelerator: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        devices: Number of devices, or a tuple of their indices.
        resume: Whether to resume the run in ``run_dir`` from its last checkpoint or finished fold.
        options: Further options of ``fit``, nested as in its configuration files. They override those above.

    Raises:
        OptionError: A value is out of range, or ``options`` holds something that no configuration file can.
    """

    data: Path
    run_dir: Path
    model: str = DEFAULT_MODEL
    language: str | None = None
    epochs: int | None = None
    seed: int = 0
    budget: str | None = None
    canary: str | None = None
    export: str | None = None
    accelerator: str | None = None
    devices: int | tuple[int, ...] | None = None
    resume: bool = False
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        self._require_types()
        for name in ("data", "run_dir"):
            object.__setattr__(self, name, Path(getattr(self, name)).expanduser())
        for name in ("model", "canary"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else str(value))
        if self.epochs is not None and self.epochs < 1:
            raise OptionError(f"epochs must be at least 1, not {self.epochs}", "epochs")
        if self.seed < 0:
            raise OptionError(f"the seed must not be negative, but is {self.seed}", "seed")
        if "config" in self.options:
            raise OptionError("options holds options, not files: read the file, and pass what it holds", "options")
        _refuse_objects("options", self.options)

    def _require_types(self) -> None:
        for name, (kinds, wanted) in KINDS.items():
            value = getattr(self, name)
            is_optional = name not in REQUIRED and value is None
            if not is_optional and (not isinstance(value, kinds) or isinstance(value, bool) != (kinds is bool)):
                raise OptionError(f"{name} must be {wanted}, and not {value!r}", name)

    def plan(self) -> Plan:
        """The options of ``fit`` that this run uses.

        Raises:
            ValueError: No model has this name.
        """
        choice = registry.choose(self.model)
        registry.tell_recipe(self.model, choice)
        init_args = _given(language=self.language) | {"source": choice.source}
        devices = list(self.devices) if isinstance(self.devices, tuple) else self.devices
        asked = {
            "model": {"adapter": {"class_path": choice.adapter, "init_args": init_args}},
            "data": {"audio_dir": str(self.data), "seed": self.seed},
            "trainer": _given(max_epochs=self.epochs, accelerator=self.accelerator, devices=devices),
            "selection": _given(canary=self.canary),
            "run_dir": str(self.run_dir),
            "seed_everything": self.seed,
            **_given(budget=self.budget, export=self.export, ckpt_path="last" if self.resume else None),
        }
        return Plan(choice.recipe, registry.merge(asked, self.options))


@dataclass(frozen=True)
class Plan:
    """Options of ``fit``, nested as in its configuration files.

    Attributes:
        recipe: The recipe of the model's family.
        asked: Options that override the recipe.
    """

    recipe: Mapping[str, Any]
    asked: Mapping[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """The recipe with the overriding options."""
        return registry.merge(self.recipe, self.asked)


def default_run_dir(data: Path) -> Path:
    """Default folder of a run over ``data``: the name of that folder, under ``runs``."""
    return Path("runs") / data.resolve().name


def _refuse_objects(name: str, value: object) -> None:
    """Raise an ``OptionError`` for what ``config.yaml`` cannot hold, and a resumed run would therefore lack."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _refuse_objects(f"{name}.{key}", entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            _refuse_objects(name, entry)
    elif not isinstance(value, PLAIN) and value is not None:
        raise OptionError(
            f"{name} holds a {type(value).__name__}, which no configuration file can hold: give class_path and "
            "init_args in its place; a callback can also be passed by callbacks",
            "options",
        )


def _given(**options: object) -> dict[str, object]:
    """The options that are not None."""
    return {name: value for name, value in options.items() if value is not None}
