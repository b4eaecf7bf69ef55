"""What a client asks for: typed and bounded values, never a path, a class or an option of the command line."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields

MAX_EPOCHS = 100
MAX_SEED = 2**31 - 1
DEFAULT_EPOCHS = 20  # where a model has no recipe: that of Whisper; docs/recipes.md
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z]{2,4})?")


class SpecError(ValueError):
    """A field is out of range.

    Attributes:
        param: Name of the field.
    """

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class JobSpec:
    """One training.

    Attributes:
        model: Name of a base model in the server's list.
        language: Language of a multilingual model, such as "de"; None leaves the choice to the model.
        epochs: Number of epochs, from 1 to 100.
        seed: Seed of every random choice, from 0 to 2**31 - 1; the same seed gives the same weights on one machine.

    Raises:
        SpecError: A field is out of range, or no whole number.
    """

    model: str
    language: str | None = None
    epochs: int = DEFAULT_EPOCHS
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "seed"):
            if type(getattr(self, name)) is not int:  # a file may hold 3.5 or true
                raise SpecError(name, f"{name} must be a whole number, not {getattr(self, name)!r}")
        if not 1 <= self.epochs <= MAX_EPOCHS:
            raise SpecError("epochs", f"epochs must be from 1 to {MAX_EPOCHS}, not {self.epochs}")
        if not 0 <= self.seed <= MAX_SEED:
            raise SpecError("seed", f"seed must be from 0 to {MAX_SEED}, not {self.seed}")
        if self.language is not None and not LANGUAGE.fullmatch(self.language):
            raise SpecError("language", "language must be a code such as en or de")

    def as_dict(self) -> dict[str, str | int | None]:
        """The specification as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: object) -> JobSpec:
        """The inverse of ``as_dict``. Fields that another version added are ignored.

        Raises:
            TypeError: ``document`` is no specification.
            SpecError: A field is out of range.
        """
        if not isinstance(document, dict):
            raise TypeError("it holds no job specification")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in document.items() if name in known})
