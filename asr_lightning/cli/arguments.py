"""A command line of ``fit`` with a model's name or a ``RunSpec`` in it, as LightningCLI can parse it. Loads no torch.

LightningCLI knows configuration files and options, and later ones override earlier ones. So a recipe is passed as the
first configuration, as JSON text.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from asr_lightning.adapters import registry
from asr_lightning.adapters.cards import Recipe
from asr_lightning.run.spec import Plan

CONFIG_VALUE = re.compile(r"-c[^-=]")
"""The short form of ``--config`` with its value attached."""
CAN_BE_OFF = ("folds", "wandb", "selection.canary", "data.replay")
"""Options that are text and can be ``off``, which YAML reads as false where it is not in quotation marks."""


def long_options(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with ``--config`` in place of its short form ``-c``, so that later steps know one name only."""
    return [
        "--config" if argument == "-c" else f"--config={argument[2:]}" if CONFIG_VALUE.match(argument) else argument
        for argument in arguments
    ]


def with_off(options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` with ``off`` where YAML made false of it, since it stood without quotation marks."""
    result = dict(options)
    for name in CAN_BE_OFF:
        group, _, key = name.rpartition(".")
        values = result.get(group) if group else result
        if isinstance(values, Mapping) and values.get(key) is False:
            result = registry.merge(result, {group: {key: "off"}} if group else {key: "off"})
    return result


def with_off_in_files(arguments: Sequence[str]) -> list[str]:
    """A command line in which files that say ``off`` without quotation marks are replaced by their text."""
    result, option = [], ""
    for argument in arguments:
        name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        option = name or option
        content = _read(value) if option == "--config" and value else {}
        changed = with_off(content)
        result.append(argument if changed == content else f"{name}{equals}{json.dumps(changed, default=str)}")
    return result


def _read(config: str) -> dict[str, Any]:
    """Content of ``config``, a file or its text; empty where it cannot be read, which the parser will say."""
    from jsonargparse import get_loader
    from yaml import YAMLError

    try:
        text = config if config.lstrip().startswith("{") else Path(config).read_text(encoding="utf-8")
        content = get_loader("yaml")(text)
    except (OSError, ValueError, YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def with_model(arguments: Sequence[str]) -> list[str]:
    """Replace ``--model NAME`` among the arguments of a command by the options that it stands for.

    The recipe comes first, so that every configuration and option overrides it; the adapter and its source take the
    option's place.

    Raises:
        ValueError: There is no such model.
    """
    expanded = list(arguments)
    recipe: Recipe = {}
    for position in reversed(range(1, len(arguments))):
        option, equals, value = arguments[position].partition("=")
        if option != "--model":
            continue
        length = 1 if equals else 2
        value = value if equals else "".join(arguments[position + 1 : position + 2])
        if not value:
            raise ValueError("--model needs a name: python -m asr_lightning models lists them")
        choice = registry.choose(value)
        registry.tell_recipe(value, choice)
        # The parser does not know the adapter's options before its class is named.
        if not recipe:  # the last of several names counts
            recipe = registry.merge(choice.recipe, {"model": {"adapter": {"class_path": choice.adapter}}})
        expanded[position : position + length] = [
            f"--model.adapter.class_path={choice.adapter}",
            f"--model.adapter.init_args.source={choice.source}",
        ]
    return [*expanded[:1], *(["--config", json.dumps(recipe)] if recipe else []), *expanded[1:]]


def with_plan(plan: Plan, typed: Sequence[str]) -> list[str]:
    """A command line with the options of ``plan`` and those that were ``typed``, which override the plan.

    A configuration file among the latter overrides the recipe, but not what the ``RunSpec`` asks for. The plan is
    passed as a file too, because jsonargparse 4.53 refuses nested options in addition to a parsed namespace.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", action="append", default=[])
    files, others = parser.parse_known_args(list(typed))
    layers = [json.dumps(plan.options), *files.config, *([json.dumps(plan.asked)] if files.config else [])]
    return [*(f"--config={layer}" for layer in layers), *others]
