"""Ids of jobs and uploads: opaque, random and safe in paths. No path is built from an id that the store lacks."""

from __future__ import annotations

import re
import secrets

ALPHABET = re.compile(r"[A-Za-z0-9_-]{1,64}")
MADE_HERE = re.compile(r"j[0-9a-f]{20}")


def new_id() -> str:
    """A new random id. It starts with a letter, so that it is never mistaken for an option."""
    return "j" + secrets.token_hex(10)


def is_id(text: str) -> bool:
    """Whether ``text`` could be an id."""
    return ALPHABET.fullmatch(text) is not None


def is_made_here(text: str) -> bool:
    """Whether ``text`` looks like an id of ``new_id``, and not like a name that a person gave."""
    return MADE_HERE.fullmatch(text) is not None
