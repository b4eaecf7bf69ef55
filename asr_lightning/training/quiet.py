"""Silences messages of Lightning and others that a user can do nothing about. Imports no torch."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LOUD = ("lightning.pytorch", "lightning.fabric")
IGNORED = (
    ".*args parameter is intended to run from within Python.*",
    r".*isinstance\(treespec, LeafSpec\).*",  # Lightning 2.6 with torch 2.11
    r".*module\(s\) in eval mode at the start of training.*",  # TrainOnly's purpose
    ".*mismatched key_padding_mask and attn_mask.*",  # WavLM of transformers 5.23
    r".*It is recommended to use `self.log\(.*sync_dist=True\).*",  # gathered already
)


@contextmanager
def quiet() -> Iterator[None]:
    """A context without Lightning's start-up messages and the warnings that a user can do nothing about."""
    loggers = [logging.getLogger(name) for name in LOUD]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for message in IGNORED:
            warnings.filterwarnings("ignore", message)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
