"""Useful Sensors' Moonshine, both generations."""

from asr_lightning.adapters.moonshine.adapter import MoonshineAdapter

__all__ = ["MoonshineAdapter"]
