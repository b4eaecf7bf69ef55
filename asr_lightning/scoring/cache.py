"""The folder in which this package stores results for later runs on the same machine. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "ASR_LIGHTNING_CACHE"
"""Environment variable that names another folder, or is ``off``."""

OFF = "off"


def folder() -> Path | None:
    """The folder that ``ASR_LIGHTNING_CACHE`` names, or ``asr_lightning`` in the user's cache; None if it is off.

    The user's cache is ``XDG_CACHE_HOME`` or ``~/.cache``, as in the XDG base directory specification.
    """
    named = os.environ.get(VARIABLE, "")
    if named == OFF:
        return None
    if named:
        return Path(named).expanduser().absolute()
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:  # a user without a home directory
        return None
    return Path(home).absolute() / "asr_lightning"
