"""What a rented machine installs: this package, and the exact tested versions of its dependencies, by hash."""

from __future__ import annotations

from pathlib import Path

from asr_lightning.adapters.registry import card_of

PACKAGE = Path(__file__).parents[1]
LOCKS = PACKAGE / "cloud" / "locks"
PYTHON = "3.11"
"""Version that the locks were resolved for, on Linux with x86-64."""
UV = "0.13.9"
"""Version of uv that resolved the locks, and that installs them."""

NO_SOURCE = ("**/__pycache__", "**/*.pyc")
"""Files of the package that are not copied to the machine."""


def lock_of(model: str) -> Path:
    """The requirements file for training ``model``; NeMo's models need other versions than the rest.

    Raises:
        ValueError: The model needs an extra that has no lock.
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
