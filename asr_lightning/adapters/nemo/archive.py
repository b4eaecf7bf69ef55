"""Validates a ``.nemo`` file, a tar of configuration, weights and tokenizer, before NeMo sees any of it.

A configuration names classes to build and files to read: one from a stranger could run code, or carry a private file
of this machine into the next model that is saved. Never imports NeMo. Used by ``loading.py``.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from asr_lightning.adapters.shared.hub import SourceError

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
MAX_CONFIG_BYTES = 16 << 20
"""Size of the largest configuration that is read. A vocabulary of 100,000 pieces takes 2 MB; a file larger than this is
an attack on the parser."""

KINDS = {
    f"nemo.collections.asr.models.{module}.{name}"
    for module, name in (
        ("ctc_models", "EncDecCTCModel"),
        ("ctc_bpe_models", "EncDecCTCModelBPE"),
        ("rnnt_models", "EncDecRNNTModel"),
        ("rnnt_bpe_models", "EncDecRNNTBPEModel"),
        ("hybrid_rnnt_ctc_models", "EncDecHybridRNNTCTCModel"),
        ("hybrid_rnnt_ctc_bpe_models", "EncDecHybridRNNTCTCBPEModel"),
    )
}
"""Classes of models that ``NeMoAdapter`` can train: CTC, transducers (RNNT and TDT) and hybrids of both."""

ENCODERS = ("ConformerEncoder", "ConformerEncoderAdapter")
"""Conformer and FastConformer. NeMo's convolutional encoders wait for all ranks in every forward pass."""

BUILDING_BLOCKS = (
    "nemo.collections.asr.modules.",
    "nemo.collections.asr.parts.submodules.",
    "nemo.collections.common.parts.",
    "nemo.core.classes.mixins.adapter_mixin_strategies.",
)
"""Modules with the parts of those models. Everything else that a configuration asks to build is refused."""

CLASS_KEYS = ("_target_", "target", "cls", "class_path")
TOKENIZER_FILES = ("model_path", "vocab_path", "spe_tokenizer_vocab")
DECODING_FILES = re.compile(r"decoding\..*(_path|_file|_model)$")
"""Settings for language models and word lists, which NeMo reads from the disk when it builds a decoder."""


def unpack(path: Path, directory: Path) -> dict[str, Any]:
    """Extract ``path`` into the empty ``directory``; returns the validated configuration.

    Raises:
        SourceError: This is no ``.nemo`` file, or it is cut short, unsafe, or a model of another kind.
    """
    try:
        with tarfile.open(path) as archive:
            members = _members(path, archive, directory)
            config = _config(path, archive, members)
            validate_config(path, config, set(members))
            for name, member in members.items():
                member.name = name  # "./name" and "name" are the same file
                archive.extract(member, directory, filter="data")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise SourceError(
            f"{path} is no .nemo file, or it is cut short ({error}): copy or download it again"
        ) from error
    return config


def _members(path: Path, archive: tarfile.TarFile, directory: Path) -> dict[str, tarfile.TarInfo]:
    """Return the files of ``archive`` by their names without a leading ``./``.

    Raises:
        SourceError: The archive holds a link, a device, a path that leads outside or a name twice; it is larger than
            the free space on the disk; or it holds no model.
    """
    files: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        name = str(PurePosixPath(member.name))
        if member.isdir() and ".." not in PurePosixPath(name).parts:
            continue
        if not member.isreg():
            raise _unsafe(path, f"{member.name!r} is a link or a device")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise _unsafe(path, f"{member.name!r} leads outside")
        if name in files:
            raise _unsafe(path, f"it holds {name!r} twice")
        files[name] = member
    missing = sorted({CONFIG, WEIGHTS} - set(files))
    if missing:
        raise SourceError(f"{path} holds no {' and no '.join(missing)}: it is no .nemo file of a model")
    size, free = sum(member.size for member in files.values()), shutil.disk_usage(directory).free
    if size > free:
        raise SourceError(f"{path} unpacks to {size / 1e9:.1f} GB and {directory} has room for {free / 1e9:.1f} GB")
    return files


def _config(path: Path, archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> dict[str, Any]:
    if members[CONFIG].size > MAX_CONFIG_BYTES:
        raise _unsafe(path, f"its {CONFIG} has {members[CONFIG].size:,} bytes")
    file = archive.extractfile(members[CONFIG])
    assert file is not None  # _members admits regular files only
    try:
        config = yaml.safe_load(file.read().decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(f"the {CONFIG} in {path} cannot be read ({error}): copy or download it again") from error
    if not isinstance(config, dict):
        raise SourceError(f"the {CONFIG} in {path} holds no settings: copy or download it again")
    return config


def validate_config(path: Path, config: dict[str, Any], members: set[str]) -> None:
    """Refuse the configuration of another kind of model, and one that names foreign classes or files.

    Args:
        path: The archive, for messages.
        config: The parsed configuration, of which nothing has been built.
        members: Files of the archive; the tokenizer's files must be among them.

    Raises:
        SourceError: The configuration is refused; the message says for which setting.
    """
    _require_kind(path, config)
    for place, key, value in _strings(config):
        if key in CLASS_KEYS and place != "target" and not value.startswith(BUILDING_BLOCKS):
            raise _unsafe(path, f"{place} asks to build {value!r}, which is no part of a speech model")
        if re.search(r"\$\{[^}]*:", value):
            raise _unsafe(path, f"{place} is {value!r}, which would be looked up on this machine")
        if value and DECODING_FILES.search(place):
            raise _unsafe(path, f"{place} asks to read {value!r} on this machine")
        if value.startswith("nemo:") and value.removeprefix("nemo:") not in members:
            raise _unsafe(path, f"{place} is {value!r}, and there is no such file in it")
    tokenizer = config.get("tokenizer") or {}
    for key in TOKENIZER_FILES:
        name = tokenizer.get(key)
        if name is not None and str(name).removeprefix("nemo:") not in members:
            raise _unsafe(path, f"tokenizer.{key} is {name!r}, which leads outside")


def _require_kind(path: Path, config: dict[str, Any]) -> None:
    target = str(config.get("target", "model without a name"))
    if target not in KINDS:
        names = ", ".join(sorted(kind.rpartition(".")[2] for kind in KINDS))
        raise SourceError(
            f"{path} holds a {target.rpartition('.')[2]}, which this adapter cannot train: it takes CTC, transducer "
            f"and hybrid recognisers ({names})"
        )
    encoder = str((config.get("encoder") or {}).get("_target_")).rpartition(".")[2]
    if encoder not in ENCODERS:
        raise SourceError(f"{path} has a {encoder} for an encoder, and this adapter trains Conformer and FastConformer")
    tokenizer = config.get("tokenizer")
    if tokenizer is None and "labels" in config:
        return
    tokenizer = tokenizer if isinstance(tokenizer, dict) else {}
    kind = str(tokenizer.get("type")).lower()
    if kind != "bpe" or not {"model_path", "vocab_path"} <= set(tokenizer):
        raise SourceError(
            f"{path} has a tokenizer of type {kind}, and this adapter reads one SentencePiece model (bpe) or plain "
            "labels: choose a model for one language"
        )
    if tokenizer.get("custom_tokenizer") is not None:
        raise SourceError(f"{path} brings a tokenizer class of its own, which this adapter does not read")


def _strings(node: Any, place: str = "", key: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield every string value of a configuration, each with its dotted place and its key."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _strings(value, f"{place}.{name}".lstrip("."), str(name))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _strings(value, f"{place}[{number}]", key)
    elif isinstance(node, str):
        yield place, key, node


def _unsafe(path: Path, reason: str) -> SourceError:
    return SourceError(f"{path} is not safe to load, nothing of it was built: {reason}. Do not trust this file")
