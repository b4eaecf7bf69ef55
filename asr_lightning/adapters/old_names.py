"""Options of adapters under names that they had in earlier versions: in configurations, commands and saved models.

To rename an option of an adapter, add it to ``NEW_NAMES``. Loads no torch.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from asr_lightning.adapters.cards import ADAPTERS

logger = logging.getLogger(__name__)

NEW_NAMES = {
    "num_time_masks": "spec_augment.num_time_masks",
    "time_fraction": "spec_augment.time_fraction",
    "num_freq_masks": "spec_augment.num_freq_masks",
    "freq_bins": "spec_augment.freq_bins",
}
"""New names by old ones; a dot stands between an option and one of its fields."""

TYPED = re.compile(rf"--model\.adapter\.(?:init_args\.)?({'|'.join(NEW_NAMES)})")


def renamed_init_args(class_path: str, init_args: Mapping[str, object], where: str) -> dict[str, object]:
    """Return the options of an adapter under their new names; one warning lists those that ``where`` calls by old ones.

    Adapters of other packages have options of their own, which are left alone.
    """
    old = _old_in(class_path, init_args)
    _warn(old, where)
    return _renamed(init_args, old)


def renamed_options(options: Mapping[str, object]) -> dict[str, object]:
    """Return options of ``fit``, nested as in a configuration file, with the adapter's under their new names."""
    adapter = _adapter_in(options)
    old = _old_in(str(adapter.get("class_path", "")), _mapping(adapter.get("init_args")))
    _warn(old, "the configuration")
    return _with_new_names(options, old)


def renamed_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command line with the adapter's options under their new names, also in its configuration files.

    A configuration file that has an old name is replaced by its content; every other argument stays as it is.
    """
    renamed, old_names = [], []
    option = class_path = ""
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        option = name or option
        if option == "--config" and value:
            layer = _read(value)
            adapter = _adapter_in(layer)
            class_path = str(adapter.get("class_path", class_path))
            old = _old_in(class_path, _mapping(adapter.get("init_args")))
            value = json.dumps(_with_new_names(layer, old), default=str) if old else value
        elif option in ("--model.adapter", "--model.adapter.class_path") and value:
            class_path, old = value, []
        elif typed := TYPED.fullmatch(name):
            old = _old_in(class_path, [typed[1]])
            name = f"--model.adapter.init_args.{NEW_NAMES[typed[1]]}" if old else name
        else:
            old = []
        old_names += old
        renamed.append(f"{name}{equals}{value}")
    _warn(old_names, "the command or its configuration")
    return renamed


def _old_in(class_path: str, names: Iterable[str]) -> list[str]:
    """Old names among ``names``, which are options of the adapter ``class_path``; none if that is another package's."""
    is_ours = "." not in class_path or class_path.startswith(f"{ADAPTERS}.")
    return [name for name in names if name in NEW_NAMES and is_ours]


def _renamed(init_args: Mapping[str, object], old: Sequence[str]) -> dict[str, object]:
    renamed = {name: value for name, value in init_args.items() if name not in old}
    for name in old:
        option, _, field = NEW_NAMES[name].partition(".")
        renamed[option] = {**_mapping(renamed.get(option)), field: init_args[name]}
    return renamed


def _with_new_names(options: Mapping[str, object], old: Sequence[str]) -> dict[str, object]:
    if not old:
        return dict(options)
    adapter = _adapter_in(options)
    init_args = _renamed(_mapping(adapter["init_args"]), old)
    return {**options, "model": {**_mapping(options["model"]), "adapter": {**adapter, "init_args": init_args}}}


def _adapter_in(options: Mapping[str, object]) -> Mapping[str, object]:
    return _mapping(_mapping(options.get("model")).get("adapter"))


def _read(config: str) -> Mapping[str, object]:
    """Content of ``config``, a file or its text; empty where it cannot be read, which the parser will say."""
    from jsonargparse import get_loader
    from yaml import YAMLError

    try:
        text = config if config.startswith("{") else Path(config).read_text(encoding="utf-8")
        return _mapping(get_loader("yaml")(text))
    except (OSError, ValueError, YAMLError):
        return {}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _warn(old: Iterable[str], where: str) -> None:
    if names := [f"{name} is now {NEW_NAMES[name]}" for name in dict.fromkeys(old)]:
        logger.warning("%s has old names of options, which still work: %s", where, ", ".join(names))
