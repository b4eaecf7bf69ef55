"""What the converters of Whisper share: the loaded model, and the settings that a runtime needs to read as it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asr_lightning.adapters import registry
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.errors import ModelError
from asr_lightning.runtime.whisper.settings import WhisperSettings


def load(source: Path) -> WhisperAdapter:
    """Load the model folder ``source`` with the options that it was saved with; LoRA is merged.

    Raises:
        ModelError: It is no Whisper model, or cannot be loaded.
    """
    adapter = registry.build(str(source))
    if not isinstance(adapter, WhisperAdapter):
        raise ModelError(f"{source} is no Whisper model: take a format that its family has")
    return adapter


def settings_of(adapter: WhisperAdapter, is_specialized: bool = True) -> WhisperSettings:
    """Return how ``adapter`` reads audio. A model that was not specialized is only read in the 30 s window."""
    config: Any = adapter.model.generation_config
    rules, options = adapter.rules, adapter.options
    return WhisperSettings(
        true_length=is_specialized and options.context == "true_length",
        margin_seconds=options.margin_seconds,
        max_tokens_per_second=options.max_tokens_per_second,
        language=adapter.language,
        task=adapter.task,
        prompt=rules.prompt,
        eos=rules.eos,
        suppress=rules.suppress,
        begin_suppress=rules.begin_suppress,
        timestamp_begin=int(config.no_timestamps_token_id) + 1,
        num_mels=adapter.processor.feature_extractor.feature_size,
        max_positions=adapter.model.config.max_target_positions,
        alignment_heads=tuple((layer, head) for layer, head in getattr(config, "alignment_heads", None) or ()),
    )
