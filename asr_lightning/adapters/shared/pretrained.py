"""Hugging Face model folders: validated before they are loaded, and written back in full.

Knows no model family: the caller says which kinds of model it takes. Every Hugging Face adapter uses it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoFeatureExtractor, AutoProcessor, AutoTokenizer, PreTrainedModel

from asr_lightning.adapters import model_files
from asr_lightning.adapters.shared import hub, lora
from asr_lightning.adapters.shared.hub import SourceError

TOKENIZER_FILES = {"tokenizer.json", "vocab.json", "tokenizer.model"}
EXTRACTOR_FILES = {"preprocessor_config.json", "processor_config.json"}
WITHOUT_EFFECT = {"transformers_version", "_name_or_path", "architectures", "dtype", "processor_class", "use_cache"}
"""Settings that have no effect on the text. The weights themselves show their type."""
HEADS = ("lm_head", "ctc_head", "proj_out")
"""Prefixes of the layers that write text."""
WRAPPER = r"^(module\.|_orig_mod\.)+"
"""What DataParallel and ``torch.compile`` put in front of the names of all weights."""


def folder_of(source: str) -> Path:
    """Return the local folder of ``source``, a path or a hub id; a model of the hub is downloaded if necessary.

    The folder of an adapter of peft stands for that of its base, into which ``lora.merge_adapter`` merges it.

    Raises:
        SourceError: There is no such folder or model.
    """
    base = model_files.base_of(source)
    if base is not None:
        return folder_of(base)
    return hub.local_folder(source) if hub.looks_local(source) else hub.hub_folder(source)


def read_config(folder: Path) -> dict[str, Any]:
    """Read the settings in ``config.json``, once every file that is read with it has been found to be whole.

    Raises:
        SourceError: The file does not exist, or one of them cannot be read.
    """
    path = folder / "config.json"
    if not path.is_file():
        content = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
        raise SourceError(
            f"{folder} is no model folder: it holds {content}, but no {path.name}; "
            "give the folder that an adapter saved, a Hugging Face or faster-whisper folder, or a hub id"
        )
    model_files.refuse_broken(folder)
    return model_files.read_object(path)


def require_kind(folder: Path, config: Mapping[str, object], kinds: Collection[str]) -> str:
    """Return the ``model_type`` of ``config``, which must be one of ``kinds``.

    Raises:
        SourceError: The type is another one, or the model wants to run code of its own.
    """
    kind = config.get("model_type")
    if kind in kinds:
        return str(kind)
    if "auto_map" in config:
        raise SourceError(
            f"{folder} holds a {kind!r} model that runs code of its own (trust_remote_code); such code is never run "
            "here: choose a model that transformers itself knows"
        )
    raise SourceError(
        f"{folder} holds a {kind!r} model; this adapter takes {', '.join(sorted(kinds))}. Choose another adapter or "
        "another model: python -m asr_lightning models lists them"
    )


def load_network(factory: Any, folder: Path, optional: str | None = None, **options: Any) -> Any:
    """Load the network in ``folder`` in float32 and eval mode, with every weight from the files.

    Args:
        factory: A class with ``from_pretrained``.
        folder: Folder with ``config.json`` and weights.
        optional: End of the name of a weight that may be missing because reading audio does not need it.
        options: Further arguments of ``from_pretrained``.

    Raises:
        SourceError: Weights are missing or cannot be read.
    """
    lacking = model_files.missing_shards(folder) if model_files.weights(folder) else ["model.safetensors"]
    if lacking:
        raise SourceError(f"{folder} holds no weights ({lacking[0]}): copy or download the whole folder again")
    model, report = _from_pretrained(factory, folder, options)
    if report["unexpected_keys"] and all(re.match(WRAPPER, key) for key in report["unexpected_keys"]):
        model, report = _from_pretrained(factory, folder, {**options, "key_mapping": {WRAPPER: ""}})
        model._weight_conversions = None  # transformers would save the weights under the names of the file again
    if found := lora.keys(report["unexpected_keys"]):
        raise SourceError(f"the weights in {folder} have {found[0]}, {lora.NOT_MERGED}")
    missing = sorted(key for key in report["missing_keys"] if optional is None or not key.endswith(optional))
    if any(key.startswith(HEADS) for key in missing):
        raise SourceError(
            f"{folder} has no head that writes text ({missing[0]} is missing): it was made for another task, or only "
            "pretrained; choose a model that was trained to transcribe"
        )
    if missing:  # transformers would go on with random numbers
        raise SourceError(f"the weights in {folder} lack {', '.join(missing[:3])}: copy or download them again")
    return model


def _from_pretrained(factory: Any, folder: Path, options: Mapping[str, Any]) -> Any:
    """Return the network of ``folder`` and what transformers says of the names of its weights."""
    files = " and ".join(path.name for path in model_files.weights(folder))
    try:
        return factory.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32, output_loading_info=True, **options
        )
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, UnpicklingError, SafetensorError) as error:
        if "mismatch" in str(error):
            raise SourceError(
                f"the weights in {folder} ({files}) have other shapes than its config.json says: copy both from one "
                "model"
            ) from error
        # Of a file that is no pickle, torch says in many lines that it might be loaded unsafely.
        reason = (
            "it is damaged, or holds more than tensors"
            if isinstance(error, UnpicklingError)
            else str(error) or repr(error)
        )
        raise SourceError(
            f"the weights in {folder} ({files}) cannot be read ({reason.splitlines()[0]}): copy or download them again"
        ) from error


def disable_layerdrop(model: Any) -> None:
    """Switch layerdrop off, which all configuration classes set to 0.1 and of which encoders keep a copy.

    Skipping layers at random is meant for training from scratch, and makes the loss of one batch differ from pass to
    pass.
    """
    for config in (model.config, getattr(model.config, "encoder_config", model.config)):
        if hasattr(config, "layerdrop"):
            config.layerdrop = 0.0
    for module in model.modules():
        if hasattr(module, "layerdrop"):
            module.layerdrop = 0.0


def has_any(folder: Path, names: set[str]) -> bool:
    """Return whether ``folder`` holds a file with one of ``names``."""
    return any((folder / name).is_file() for name in names)


def require_tokenizer(folder: Path) -> None:
    """Require that ``folder`` holds a tokenizer.

    Raises:
        SourceError: It holds none.
    """
    if not has_any(folder, TOKENIZER_FILES):
        raise SourceError(f"{folder} holds no tokenizer.json: copy it from the model this one was made from")


def require_extractor(folder: Path) -> None:
    """Require that ``folder`` holds the settings of a feature extractor.

    Raises:
        SourceError: It holds none.
    """
    if not has_any(folder, EXTRACTOR_FILES):
        raise SourceError(f"{folder} holds no preprocessor_config.json: copy it from the model this one was made from")


def load_tokenizer(folder: Path, **options: Any) -> Any:
    """Load the tokenizer in ``folder``.

    Raises:
        SourceError: There is none.
    """
    require_tokenizer(folder)
    return load_part(AutoTokenizer, folder, "tokenizer", **options)


def load_extractor(folder: Path) -> Any:
    """Load the feature extractor in ``folder``.

    Raises:
        SourceError: There is none.
    """
    require_extractor(folder)
    return load_part(AutoFeatureExtractor, folder, "feature extractor")


def load_processor(folder: Path) -> Any:
    """Load tokenizer and feature extractor of ``folder`` as the one processor that upstream makes of them.

    Raises:
        SourceError: One of them is missing.
    """
    require_tokenizer(folder)
    require_extractor(folder)
    return load_part(AutoProcessor, folder, "processor")


def load_part(factory: Any, folder: Path, what: str, **options: Any) -> Any:
    """Load ``what``, such as the tokenizer, from ``folder`` by the ``from_pretrained`` of ``factory``.

    Raises:
        SourceError: A library refuses its files.
    """
    try:
        return factory.from_pretrained(folder, local_files_only=True, **options)
    except Exception as error:  # the tokenizers library raises Exception itself
        raise SourceError(
            f"the {what} in {folder} cannot be loaded ({type(error).__name__}: {error}): copy its files again from the "
            "model this one was made from"
        ) from error


def write(directory: str | Path, model: PreTrainedModel, *parts: Any) -> None:
    """Write ``model`` and ``parts`` (tokenizer, feature extractor, processor) in upstream's layout."""
    with hub.quiet():
        model.save_pretrained(directory)
        for part in parts:
            part.save_pretrained(directory)


def text_options(
    config: Any, tokenizer: Any, extractor: Any, shape: Collection[str] | None = None
) -> dict[str, object]:
    """Return everything in a checkpoint that decides its text beside the weights: use of layers, tokens, features.

    Args:
        config: Configuration of the network.
        tokenizer: Tokenizer of the checkpoint.
        extractor: Feature extractor of the checkpoint.
        shape: Settings of ``config`` that cannot be seen from the weights; None takes all settings.
    """
    settings = config.to_dict()
    network = {name: settings.get(name) for name in shape or settings if name not in WITHOUT_EFFECT}
    tokens = json.dumps(sorted(tokenizer.get_vocab().items())).encode()
    features = {name: value for name, value in extractor.to_dict().items() if name not in WITHOUT_EFFECT}
    return {"config": network, "extractor": features, "vocabulary": hashlib.sha256(tokens).hexdigest()}
