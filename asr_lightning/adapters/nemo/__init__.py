"""NVIDIA NeMo. NeMo itself is imported inside functions only."""

from asr_lightning.adapters.nemo.adapter import NeMoAdapter

__all__ = ["NeMoAdapter"]
NeMoAdapter.__module__ = __name__  # the path that configurations and saved models name
