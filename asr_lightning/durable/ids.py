"""Ids of jobs and uploads: opaque, random, of a safe alphabet. No path is built from one that the store lacks."""

from __future__ import annotations

import re
import secrets

ALPHABET = re.compile(r"[A-Za-z0-9_-]{1,64}")


def new_id() -> str:
    """A fresh id; two made in one second differ. It starts with a letter, so that no option is mistaken for it."""
    return "j" + secrets.token_hex(10)


def is_id(text: str) -> bool:
    """Whether ``text`` could be an id."""
    return ALPHABET.fullmatch(text) is not None
