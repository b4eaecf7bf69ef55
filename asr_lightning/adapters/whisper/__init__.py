"""OpenAI's Whisper and its relatives."""

from asr_lightning.adapters.whisper.adapter import WhisperAdapter

__all__ = ["WhisperAdapter"]
