"""Silences messages of Lightning and others that a user can do nothing about. Imports no torch."""

from __future__ import annotations

import logging
import warnings


def quieten() -> None:
    """Silence Lightning's start-up messages and warnings that a user can do nothing about."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*args parameter is intended to run from within Python.*")
    warnings.filterwarnings("ignore", r".*isinstance\(treespec, LeafSpec\).*")  # Lightning 2.6 with torch 2.11
    warnings.filterwarnings("ignore", r".*module\(s\) in eval mode at the start of training.*")  # TrainOnly's purpose
    warnings.filterwarnings("ignore", ".*mismatched key_padding_mask and attn_mask.*")  # WavLM of transformers 5.23
    warnings.filterwarnings("ignore", r".*It is recommended to use `self.log\(.*sync_dist=True\).*")  # gathered already
