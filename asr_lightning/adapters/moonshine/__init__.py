"""Useful Sensors' Moonshine, both generations."""

from asr_lightning.adapters.moonshine.adapter import MoonshineAdapter

__all__ = ["MoonshineAdapter"]
MoonshineAdapter.__module__ = __name__  # the path that configurations and saved models name
