"""MMS: one wav2vec2 for a thousand languages, each with layers, a head and letters of its own.

Knows no audio and no training. Used by ``hf_ctc.py``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file

from asr_lightning.adapters.shared import hub
from asr_lightning.adapters.shared.hub import SourceError
from asr_lightning.errors import OptionError

FILE_NAME = "adapter.{}.safetensors"


class LoadingOptions(NamedTuple):
    """Arguments of ``from_pretrained`` that choose the language, for the network and for the tokenizer."""

    network: Mapping[str, object]
    tokenizer: Mapping[str, object]


def loading_options(source: str, folder: Path, config: Mapping[str, object], language: str | None) -> LoadingOptions:
    """Return the arguments that load ``language``; empty for models without languages.

    If ``source`` is a hub id, the layers of the language are downloaded.

    Raises:
        OptionError: The model needs a language and got none, has no such language, or has no languages at all.
    """
    if config.get("adapter_attn_dim") is None:
        if language is not None:
            raise OptionError(
                f"{source} reads one language: leave out --language {language}, which is for MMS", "language"
            )
        return LoadingOptions({}, {})
    known = _languages(folder)
    if language not in known:
        wrong = "" if language is None else f", and {language} is not one of them"
        some = ", ".join(sorted(known)[:8])
        raise OptionError(
            f"{source} reads {len(known)} languages{wrong}: give --language with the "
            f"ISO 639-3 code of yours, such as {some}",
            "language",
        )
    if not hub.looks_local(source):
        hub.hub_file(source, FILE_NAME.format(language))
    elif not (folder / FILE_NAME.format(language)).is_file():
        raise SourceError(f"{folder} holds no {FILE_NAME.format(language)}: copy it from the model this was made from")
    # The head has a row for each letter of the language, so its shape differs from that of the checkpoint's head.
    return LoadingOptions({"target_lang": language, "ignore_mismatched_sizes": True}, {"target_lang": language})


def save_language(directory: str | Path, network: Any, language: str | None) -> None:
    """Write the layers of ``language``, if there is one, beside the weights, where transformers looks for them."""
    if language is not None:
        tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in network._get_adapters().items()}
        save_file(tensors, Path(directory) / FILE_NAME.format(language), metadata={"format": "pt"})


def _languages(folder: Path) -> set[str]:
    path = folder / "vocab.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name for name, letters in content.items() if isinstance(letters, dict) and re.fullmatch(r"[\w-]+", name)}
