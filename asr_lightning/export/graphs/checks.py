"""The gate on exported ONNX files that does not read audio: graphs, weights, tokenizer and settings against the source.

A text does not show an alignment head that is missing, or a suppressed token that no clip of the test split needs.
A file that cannot be read is a problem, not an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from tokenizers import Tokenizer
from torch import Tensor

from asr_lightning.adapters.shared.pretrained import WITHOUT_EFFECT
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.export.graphs.building import QUANTIZED, SCALE, Array

HALF_STEP = 0.5 * (1 + 1e-3)
"""Largest error of a rounded weight, in units of its scale, and what float32 adds to it."""


def graph_problems(path: Path, expected: onnx.ModelProto, weights: Mapping[str, Tensor]) -> list[str]:
    """Say in what the file differs from ``expected``, which was built of the source, and from the source's weights."""
    if not path.is_file():
        return [f"{path.name} is missing"]
    try:
        onnx.checker.check_model(str(path))
        model = onnx.load(str(path))
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    except Exception as error:  # protobuf, onnx and numpy raise errors of their own on damaged files
        return [f"{path.name} cannot be read: {_first_line(error)}"]
    wanted = {tensor.name: numpy_helper.to_array(tensor) for tensor in expected.graph.initializer}
    found = [*_metadata_problems(model, expected), *_tensor_problems(tensors, wanted, weights)]
    if [node.SerializeToString(deterministic=True) for node in model.graph.node] != [
        node.SerializeToString(deterministic=True) for node in expected.graph.node
    ]:
        found.append("its operations are not those that were exported")
    if (list(model.graph.input), list(model.graph.output)) != (list(expected.graph.input), list(expected.graph.output)):
        found.append("its inputs or outputs are not those of this format")
    return [f"{path.name}: {problem}" for problem in found]


def _metadata_problems(model: onnx.ModelProto, expected: onnx.ModelProto) -> Iterator[str]:
    entries, wanted = ({entry.key: entry.value for entry in m.metadata_props} for m in (model, expected))
    for name in sorted(entries.keys() | wanted.keys()):
        if entries.get(name) != wanted.get(name):
            yield f"its metadata has {entries.get(name)!r} for {name}, and the model has {wanted.get(name)!r}"


def _tensor_problems(
    tensors: Mapping[str, Array], wanted: Mapping[str, Array], weights: Mapping[str, Tensor]
) -> Iterator[str]:
    for name in sorted(wanted.keys() - tensors.keys()):
        yield f"it lacks {name}"
    for name, values in tensors.items():
        if name not in wanted:
            is_lora = "lora" in name
            yield f"it has {name}" + (", so that LoRA was not merged" if is_lora else ", which the model lacks")
        elif values.shape != wanted[name].shape or values.dtype != wanted[name].dtype:
            yield f"{name} is {_kind(values)}, and the model has {_kind(wanted[name])}"
        elif name in weights and not np.isfinite(values).all():
            yield f"{name} has values that are not finite"
        elif not _is_equal(name, tensors, wanted, weights):
            yield f"{name} does not have the values of the model"


def _kind(values: Array) -> str:
    return f"{values.dtype} {values.shape}"


def _is_equal(
    name: str, tensors: Mapping[str, Array], wanted: Mapping[str, Array], weights: Mapping[str, Tensor]
) -> bool:
    """Whether a tensor has the values of the weight of its name; constants have those that were exported."""
    base = name.removesuffix(QUANTIZED)
    if base not in weights:
        return np.array_equal(tensors[name], wanted[name])
    weight = weights[base].detach().float().numpy()
    if base == name:
        return np.array_equal(tensors[name], weight) or np.array_equal(tensors[name], weight.T)
    scales = tensors.get(base + SCALE)
    if scales is None:
        return False
    return bool((np.abs(tensors[name] * scales - weight.T) <= HALF_STEP * scales).all())


def tokenizer_problems(target: Path, adapter: WhisperAdapter) -> list[str]:
    """Say what is wrong with the tokenizer and the settings of the features in ``target``."""
    return [*_tokenizer_problems(target / "tokenizer.json", adapter), *_extractor_problems(target, adapter)]


def _tokenizer_problems(path: Path, adapter: WhisperAdapter) -> Iterator[str]:
    if not path.is_file():
        yield f"{path.name} is missing"
        return
    try:
        found = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain exceptions
        yield f"{path.name} cannot be read: {_first_line(error)}"
        return
    tokens = found.get_vocab(with_added_tokens=True)
    if tokens != adapter.processor.tokenizer.get_vocab():
        yield f"{path.name} does not have the vocabulary of the model"
    elif json.loads(found.to_str()) != json.loads(adapter.processor.tokenizer.backend_tokenizer.to_str()):
        yield f"{path.name} does not divide texts as the model's does"
    size = adapter.model.config.vocab_size
    if max(tokens.values(), default=0) >= size:
        yield f"{path.name} has tokens beyond the {size} of the model"
    if tokens.get("<|endoftext|>") != adapter.rules.eos:
        yield f"{path.name} ends texts with another token than the model"


def _extractor_problems(target: Path, adapter: WhisperAdapter) -> Iterator[str]:
    yield from json_problems(target / "preprocessor_config.json", adapter.processor.feature_extractor.to_json_string())


def json_problems(path: Path, wanted: str) -> Iterator[str]:
    """Say in which entries the file differs from the object ``wanted``; entries of versions and origins may differ."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        yield f"{path.name} is missing"
        return
    except ValueError as error:
        yield f"{path.name} cannot be read: {_first_line(error)}"
        return
    for name, value in json.loads(wanted).items():
        if name not in WITHOUT_EFFECT and content.get(name) != value:
            yield f"{path.name} has {content.get(name)} for {name}, and the model has {value}"


def settings_problems(settings: Mapping[str, object], wanted: Mapping[str, object]) -> list[str]:
    """Say which of ``settings`` differ from those of the source."""
    found, expected = (json.loads(json.dumps(dict(values))) for values in (settings, wanted))
    return [
        f"the setting {name} is {found.get(name)}, and the model has {value}"
        for name, value in expected.items()
        if found.get(name) != value
    ]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [repr(error)])[0]
