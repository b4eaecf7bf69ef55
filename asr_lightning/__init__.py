"""Specialize a small speech recogniser to one voice or one domain from 100-300 short recordings.

The public names load on first use, so importing the package costs no torch.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "ASRAdapter": "protocols",
    "ASRModule": "module",
    "AudioFolderDataModule": "datamodules.audio_folder",
    "AudioLimits": "types",
    "Collator": "protocols",
    "LossOutput": "types",
    "SpeechBatch": "types",
    "Utterance": "types",
    "check_adapter": "checks",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public name from its home (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
