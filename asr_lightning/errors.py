"""What a user can put right, by kind. All of them are ``ValueError`` too. Loads nothing."""

from __future__ import annotations


class OptionError(ValueError):
    """An option that does not exist, or with a value that it cannot have."""
