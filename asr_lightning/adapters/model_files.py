"""What is wrong with the files of a model folder, said before a library fails on them without a name. Loads no torch.

A copy that broke off, a pointer of git-lfs or a web page in the place of a file are common: they are what ``git clone``
and ``curl`` leave. Knows no model family.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from asr_lightning.errors import ModelError

POINTER = b"version https://git-lfs"
HEAD_BYTES = 512
JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "adapter_config.json",
)
"""Files that transformers and peft read, some of which they pass over in silence if they cannot."""
OTHER_FILES = ("merges.txt", "vocab.txt", "tokenizer.model")
WEIGHTS = (r"model(-\d+-of-\d+)?\.safetensors", r"pytorch_model(-\d+-of-\d+)?\.bin", r"model\.bin")
"""Names of weights, in the order in which they are looked for: only the first kind that is there is read."""
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
AGAIN = "copy or download it again"


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``.

    Raises:
        FileNotFoundError: There is no such file.
        ModelError: It cannot be read, or holds something else.
    """
    if reason := _damage(path):
        raise ModelError(reason)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} cannot be read ({error}): {AGAIN}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no settings: {AGAIN}")
    return content


def refuse_broken(folder: Path) -> None:
    """Refuse a folder in which a file that will be read is empty, cut off, or something else than its name says.

    Raises:
        ModelError: There is such a file; the message names it and the remedy.
    """
    for name in JSON_FILES:
        if (folder / name).is_file():
            read_object(folder / name)
    for path in (*(folder / name for name in (*OTHER_FILES, *ADAPTER_WEIGHTS)), *weights(folder)):
        if path.is_file() and (reason := _damage(path)):
            raise ModelError(reason)


def weights(folder: Path) -> list[Path]:
    """The files of weights in ``folder`` that are read, sorted by name; empty if there are none."""
    paths = sorted(folder.iterdir())
    return next((found for kind in WEIGHTS if (found := [p for p in paths if re.fullmatch(kind, p.name)])), [])


def missing_shards(folder: Path) -> list[str]:
    """Names of the files that are missing where weights are divided among several."""
    found = {path.name for path in weights(folder)}
    matches = [re.fullmatch(r"(.+)-(\d+)(-of-(\d+)\..+)", name) for name in found]
    wanted = {
        f"{match[1]}-{number:0{len(match[2])}d}{match[3]}" for match in matches if match
        for number in range(1, int(match[4]) + 1)
    }  # fmt: skip
    return sorted(wanted - found) if all(matches) else []  # one whole file is read rather than shards


def base_of(source: str | Path) -> str | None:
    """The model that an adapter of peft, such as LoRA, belongs to; None if ``source`` is no folder of such an adapter.

    Raises:
        ModelError: The adapter names no model, or cannot be read.
    """
    folder = Path(source).expanduser()
    path = folder / "adapter_config.json"
    if (folder / "config.json").exists() or not path.is_file():
        return None
    base = read_object(path).get("base_model_name_or_path")
    if not base or not isinstance(base, str) or Path(base).resolve() == folder.resolve():
        raise ModelError(
            f"{path} does not say which model this adapter belongs to: write the folder of that model, or its hub id, "
            "into it as base_model_name_or_path"
        )
    return base


def _damage(path: Path) -> str | None:
    """What is wrong with the content of ``path`` as a whole, and what to do; None if nothing is."""
    size = path.stat().st_size
    if size == 0:
        return f"{path} is empty: {AGAIN}"
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        if head.startswith(POINTER):
            return (
                f"{path} is a pointer of git-lfs in the place of the file: run `git lfs pull` in the folder that was "
                "cloned, or download the file itself"
            )
        if head.lstrip().lower().startswith((b"<html", b"<!doctype html")):
            return f"{path} is a web page in the place of the file, perhaps of an error: download the file itself"
        if path.suffix == ".safetensors":
            return _damaged_safetensors(path, head, size)
    return None


def _damaged_safetensors(path: Path, head: bytes, size: int) -> str | None:
    """What is wrong with the size of a file of weights. Source: the format's description in safetensors' README."""
    length = int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > 100_000_000:  # the most that the format allows
        return f"{path} is no file of weights, or damaged from its start: {AGAIN}"
    if size < 8 + length:
        return f"{path} is cut off within its first {length + 8} bytes: {AGAIN}"
    with path.open("rb") as file:
        file.seek(8)
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            whole = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return f"{path} is damaged: its list of tensors cannot be read; {AGAIN}"
    return None if size >= whole else f"{path} is cut off: it has {size} of {whole} bytes; {AGAIN}"
