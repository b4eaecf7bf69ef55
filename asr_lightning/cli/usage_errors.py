"""Turns what jsonargparse says of a wrong option into one sentence, with options as the command line takes them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "NoneType": "null",
    "list": "a list such as [a, b]",
    "dict": "a mapping such as {a: 1}",
}
"""Words for the types of options."""
OTHER_NAMES = {
    "language": "model.adapter.init_args.language",
    "epochs": "trainer.max_epochs",
    "seed": "seed_everything",
    "device": "trainer.accelerator",
}
"""Options of ``fit`` by the names that they have in other commands or in Python."""
NO_TEXT = r"True|False|None|[-+.\d][-+.\de_]*"
"""What YAML makes of off, of a number and of null where they are not in quotation marks."""


def readable(message: str, command: str, known: Iterable[str]) -> str:
    """``message`` as one sentence, or on one line where its form is not known.

    Args:
        message: What jsonargparse says.
        command: The command that was typed, such as ``specialize``.
        known: Names of all options of ``fit``, for a proposal.
    """
    message = message.strip()
    if unknown := re.fullmatch(r"[Uu]nrecognized arguments: (.*)", message, re.DOTALL):
        return _unrecognized(unknown[1].split(), command, known)
    if missing := re.fullmatch(r"the following arguments are required: (?:fit\.)?(.*)", message):
        return f"{command} needs --{missing[1]}: python -m asr_lightning {command} --help explains it"
    if key := re.fullmatch(r'Parser key "([^"]+)":?\s*(.*)', message, re.DOTALL):
        return _wrong_value(key[1], key[2])
    return _on_one_line(message)


def _unrecognized(words: list[str], command: str, known: Iterable[str]) -> str:
    names = [word.partition("=")[0] for word in words if word.startswith("-")]
    if not names:
        return (
            f"{command} does not take {' '.join(words)!r}: an option stands before its value, as --trainer.max_epochs 4"
        )
    name = names[0].lstrip("-")
    near = get_close_matches(name, known := [*known], n=3, cutoff=0.75)
    last = name.rpartition(".")[2]
    near = [OTHER_NAMES[name]] if name in OTHER_NAMES else near or [each for each in known if each.endswith(f".{last}")]
    proposal = f"did you mean {', '.join(f'--{each}' for each in near[:3])}? " if near else ""
    return f"{command} has no option {names[0]}: {proposal}python -m asr_lightning fit --help lists all of them"


def _wrong_value(option: str, reason: str) -> str:
    given = re.search(r"(?:Got value|Given value): (.*)", reason)
    expected = list(dict.fromkeys(re.findall(r"Expected an? <class '(?:\w+\.)*(\w+)'>", reason)))
    choices = list(dict.fromkeys(re.findall(r"Expected a <?(?:typing\.)?Literal\[(.*?)\]", reason)))
    if given is None or not (expected or choices) or reason.count("Parser key"):
        return f"--{option}: {_on_one_line(reason)}"
    kinds = [KINDS.get(kind, kind) for kind in expected if kind != "NoneType"]
    allowed = " or ".join([*kinds, *(f"one of {choice}" for choice in choices)]) or "null"
    value = given[1].strip()
    is_misread = ("str" in expected or choices) and re.fullmatch(NO_TEXT, value)
    quotes = ": write it in quotation marks in the configuration file, such as 'off' or '1e5'" if is_misread else ""
    return f"--{option} takes {allowed}, and not {value}{quotes}"


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
