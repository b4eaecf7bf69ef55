"""Logging of this package to the terminal. Imports no other part of it."""

from __future__ import annotations

import logging
import os


def configure_logging() -> None:
    """Print this package's messages as plain lines, but only warnings in processes other than rank 0.

    Lightning starts the other processes with LOCAL_RANK set.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    package_logger = logging.getLogger("asr_lightning")
    package_logger.handlers = [handler]
    package_logger.setLevel(logging.INFO if os.environ.get("LOCAL_RANK", "0") == "0" else logging.WARNING)
