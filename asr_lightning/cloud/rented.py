"""What a rented machine installs: the very versions that were tested here, by hash. Standard library only."""

from __future__ import annotations

from pathlib import Path

from asr_lightning.adapters.registry import card_of

PACKAGE = Path(__file__).parents[1]
LOCKS = PACKAGE / "cloud" / "locks"
PYTHON = "3.11"
"""What the locks were resolved for, on Linux with x86-64."""

NO_SOURCE = ("**/__pycache__", "**/*.pyc")
"""Not copied to the machine with the package."""


def lock_of(model: str) -> Path:
    """The requirements file that trains ``model``: NeMo's models need versions of their own.

    Raises:
        ValueError: The model's extra has no lock.
    """
    card = card_of(model)
    extra = card.extra if card is not None else None
    lock = LOCKS / f"{extra or 'main'}.lock"
    if not lock.is_file():
        raise ValueError(
            f"{model} needs the extra {extra!r}, which rented machines do not have: choose another model, or train "
            "here with python -m asr_lightning specialize"
        )
    return lock
