"""The language that a model reads, for models that do not say it themselves. Loads no torch."""

from __future__ import annotations

from pathlib import Path

from asr_lightning.adapters import registry
from asr_lightning.runtime import exported

ENGLISH = "whisper.en"
"""Family of the Whispers that know no other language; their folders do not say so, but their vocabulary does."""


def language_of(model: str | Path) -> str | None:
    """Return the code of the language that ``model`` reads, such as ``de``; None if nothing here knows.

    Args:
        model: A model folder, an export, or a name that ``python -m asr_lightning models`` lists.

    Raises:
        ModelError: It is a folder whose files cannot be read.
    """
    record = exported.record(model)
    if record is not None and isinstance(language := record.settings.get("language"), str):
        return language
    source = record.model if record is not None else str(model)
    if language := registry.language(source, None):
        return language
    return "en" if Path(source).expanduser().is_dir() and registry.choose(source).family == ENGLISH else None
