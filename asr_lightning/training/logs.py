"""What this package says on the terminal. Loads nothing."""

from __future__ import annotations

import logging
import os


def configure_logging() -> None:
    """Plain lines of our own messages from rank 0; Lightning starts the other ranks with LOCAL_RANK set."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("asr_lightning")
    ours.handlers = [handler]
    ours.setLevel(logging.INFO if os.environ.get("LOCAL_RANK", "0") == "0" else logging.WARNING)
