"""A command line of ``fit`` with a model's name or a ``RunSpec`` in it, as LightningCLI can parse it. Loads no torch.

LightningCLI knows configuration files and options, and later ones override earlier ones. So a recipe is passed as the
first configuration, as JSON text.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence

from asr_lightning.adapters import registry
from asr_lightning.adapters.cards import Recipe
from asr_lightning.run.spec import Plan

CONFIG_VALUE = re.compile(r"-c[^-=]")
"""The short form of ``--config`` with its value attached."""


def long_options(arguments: Sequence[str]) -> list[str]:
    """``arguments`` with ``--config`` in place of its short form ``-c``, so that later steps know one name only."""
    return [
        "--config" if argument == "-c" else f"--config={argument[2:]}" if CONFIG_VALUE.match(argument) else argument
        for argument in arguments
    ]


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
