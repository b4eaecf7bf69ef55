"""What a user can put right, by kind. All of them are ``ValueError`` too. Loads nothing."""

from __future__ import annotations

from importlib.util import find_spec


class OptionError(ValueError):
    """An option that does not exist, or with a value that it cannot have."""


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
