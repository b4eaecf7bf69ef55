"""OpenAI's Whisper and its relatives."""

from asr_lightning.adapters.whisper.adapter import WhisperAdapter

__all__ = ["WhisperAdapter"]
WhisperAdapter.__module__ = __name__  # the path that configurations and saved models name
