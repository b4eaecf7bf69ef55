"""Where this package may keep what it has computed, for the next run on this machine. Loads no torch."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "ASR_LIGHTNING_CACHE"
"""Environment variable: a folder in place of the default one, or ``off``."""

OFF = "off"


def folder() -> Path | None:
    """The folder that ``ASR_LIGHTNING_CACHE`` names, else ``asr_lightning`` in the user's cache; None if it is off.

    Source: the XDG base directory specification, which has ``XDG_CACHE_HOME`` and ``~/.cache``.
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
