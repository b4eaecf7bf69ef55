"""Models of NVIDIA NeMo. NeMo itself is imported inside functions only."""

from asr_lightning.adapters.nemo.adapter import NeMoAdapter

__all__ = ["NeMoAdapter"]
