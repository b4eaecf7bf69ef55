"""What a user can put right, by kind. All of them are ``ValueError`` too. Loads nothing."""

from __future__ import annotations

from importlib.util import find_spec


class DataError(ValueError):
    """A recording, a transcript or a split that cannot be used; the message names the file and the remedy."""


class OptionError(ValueError):
    """An option that does not exist, or with a value that it cannot have.

    Attributes:
        param: Its name, where that is known.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class MissingExtraError(ValueError):
    """Something was asked for that another ``pip install`` brings; the message has the line."""


def require_extra(extra: str, module: str, purpose: str) -> None:
    """Refuse to go on without ``module``, which the extra ``extra`` installs.

    Raises:
        MissingExtraError: Says what to install for ``purpose``.
    """
    if find_spec(module) is None:
        raise MissingExtraError(
            f"{purpose} needs {module}, which is not installed here: pip install 'asr-lightning[{extra}]'"
        )
