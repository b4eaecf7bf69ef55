"""Reads a Hugging Face folder of Whisper without torch: weights, vocabulary, mel bins and settings for decoding.

Used by the converters that write weights in a layout of their own. ``whisper.py`` is for those that need the network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asr_lightning.adapters import model_files, saved
from asr_lightning.errors import ModelError
from asr_lightning.runtime.whisper.settings import WhisperSettings

Array = NDArray[Any]

DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "F64": "<f8", "I64": "<i8"}
READING = {"context": "true_length", "margin_seconds": 0.64, "max_tokens_per_second": 7.0}
"""Options of a saved model that decide how it reads, with the defaults of ``WhisperOptions``, which loads torch."""
SAVE_AGAIN = "save it again with python -c \"import asr_lightning; asr_lightning.load('FOLDER').save('NEW')\""


class WhisperFolder:
    """The files of one model.

    Args:
        path: A folder that the adapter's ``save`` wrote, or a Hugging Face folder with the same files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = self._read("config.json")
        if self.config.get("model_type") != "whisper":
            raise ModelError(f"{path} is no Whisper model: take a format that its family has")

    def _read(self, name: str) -> dict[str, Any]:
        if not (self.path / name).is_file():
            raise ModelError(f"{self.path} lacks {name}: copy the whole model folder again")
        return model_files.read_object(self.path / name)

    def size(self, name: str) -> int:
        """Return the entry ``name`` of ``config.json``, a positive whole number.

        Raises:
            ModelError: It is missing or null, as some fine-tuning tools leave it.
        """
        value = self.config.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
            raise ModelError(
                f"{self.path / 'config.json'} has {json.dumps(value)} for {name}, which must be a positive whole "
                "number: copy the entry from the model that this one was made from"
            )
        return value

    @cached_property
    def generation(self) -> dict[str, Any]:
        """The content of ``generation_config.json``."""
        return self._read("generation_config.json")

    @cached_property
    def tensors(self) -> Mapping[str, Array]:
        """The weights by their names, read from the disk when they are used."""
        files = [path for path in model_files.weights(self.path) if path.suffix == ".safetensors"]
        if not files or model_files.missing_shards(self.path):
            raise ModelError(f"{self.path} lacks weights in safetensors: copy the whole model folder again")
        model_files.refuse_broken(self.path)
        return {name: tensor for path in files for name, tensor in read_safetensors(path).items()}

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Each piece of text in the model's own spelling, and its token; without those that were added to the text's.

        Taken from ``tokenizer.json``, which is what the tokenizer reads, else from ``vocab.json``.
        """
        if (self.path / "tokenizer.json").is_file():
            try:
                return dict(self._read("tokenizer.json")["model"]["vocab"])
            except (KeyError, TypeError, ValueError) as error:
                raise ModelError(f"{self.path / 'tokenizer.json'} holds no vocabulary: copy it again") from error
        return self._read("vocab.json")

    @property
    def is_specialized(self) -> bool:
        """Whether a run of ours wrote the folder; others are read in the 30 s window."""
        return saved.record(self.path) is not None

    def settings(self) -> WhisperSettings:
        """Return how the model reads audio and writes text, as ``whisper.settings_of`` does for the loaded network.

        Raises:
            ModelError: The folder lacks something that decides it.
        """
        options = {**READING, **saved.recorded_options(str(self.path), READING)}
        chosen = saved.recorded_options(str(self.path), ("language", "task"))
        language, task = self._language_and_task({**self.generation, **chosen})
        return WhisperSettings(
            true_length=self.is_specialized and options["context"] == "true_length",
            margin_seconds=float(str(options["margin_seconds"])),
            max_tokens_per_second=float(str(options["max_tokens_per_second"])),
            language=language,
            task=task,
            prompt=self._prompt(language, task),
            eos=self._token("eos_token_id"),
            suppress=tuple(self.generation.get("suppress_tokens") or ()),
            begin_suppress=tuple(self.generation.get("begin_suppress_tokens") or ()),
            timestamp_begin=self._token("no_timestamps_token_id") + 1,
            num_mels=self.size("num_mel_bins"),
            max_positions=self.size("max_target_positions"),
            alignment_heads=tuple((layer, head) for layer, head in self.generation.get("alignment_heads") or ()),
        )

    def _token(self, name: str) -> int:
        value = self.generation.get(name)
        if not isinstance(value, int):
            raise ModelError(f"{self.path / 'generation_config.json'} lacks {name}: {SAVE_AGAIN}")
        return value

    def _language_and_task(self, config: Mapping[str, Any]) -> tuple[str | None, str | None]:
        if not config.get("is_multilingual"):
            return None, None
        language = str(config.get("language") or "").strip("<|>")
        if f"<|{language}|>" not in (config.get("lang_to_id") or {}):
            raise ModelError(
                f"{self.path} is multilingual and does not say which language it reads: write the code, such as de, "
                "as language into its generation_config.json"
            )
        return language, config.get("task") or "transcribe"

    def _prompt(self, language: str | None, task: str | None) -> tuple[int, ...]:
        start, end = self._token("decoder_start_token_id"), self._token("no_timestamps_token_id")
        if language is None:
            return start, end
        languages, tasks = self.generation["lang_to_id"], self.generation.get("task_to_id") or {}
        if task not in tasks:
            raise ModelError(f"{self.path / 'generation_config.json'} lacks the task {task}: {SAVE_AGAIN}")
        return start, languages[f"<|{language}|>"], tasks[task], end


def read_safetensors(path: Path) -> dict[str, Array]:
    """Return the tensors of a file by their names; bfloat16, which numpy lacks, becomes float32.

    Source: the format's description in safetensors' README. The library needs another package for bfloat16.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    content = np.memmap(path, np.uint8, "r", offset=8 + length)
    return {name: _tensor(path, name, content, entry) for name, entry in header.items()}


def _tensor(path: Path, name: str, content: Array, entry: Mapping[str, Any]) -> Array:
    if entry["dtype"] not in DTYPES:
        raise ModelError(f"{path} has {name} as {entry['dtype']}, and weights are floats: {SAVE_AGAIN}")
    start, end = entry["data_offsets"]
    values: Array = content[start:end].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])
    if entry["dtype"] != "BF16":
        return values
    return (values.astype(np.uint32) << 16).view(np.float32)
