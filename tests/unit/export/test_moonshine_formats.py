"""Moonshine in onnxruntime, sherpa-onnx and its own runtime: the texts of torch, and files that are refused."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from asr_lightning.adapters.moonshine import MoonshineAdapter
from asr_lightning.errors import ModelError
from asr_lightning.export.graphs import files as onnx_files
from asr_lightning.export.moonshine import moonshine_voice
from asr_lightning.runtime.formats import FORMATS
from tests.tiny_hf import edit_json, tiny_moonshine
from tests.tiny_models import clip

VOICE = {
    "hidden_size": 288,
    "intermediate_size": 32,
    "encoder_num_hidden_layers": 1,
    "decoder_num_hidden_layers": 6,
} | {f"{side}_num_attention_heads": 8 for side in ("encoder", "decoder")}
"""The shape of Moonshine tiny's decoder, without which its own runtime takes no model."""

FILES = {
    "onnx": ("encoder_model.onnx", "decoder_model_merged.onnx", "tokenizer.json"),
    "sherpa-onnx": ("encoder_model.onnx", "decoder_model_merged.onnx", "tokens.txt"),
    "moonshine-voice": ("encoder_model.ort", "decoder_model_merged.ort", "tokenizer.bin"),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the model that a format is made from: small, or with the shape that moonshine-voice demands."""
    folder = tmp_path_factory.mktemp("models")
    small = written(folder / "small")
    voice = written(folder / "voice", **VOICE)
    return {"onnx": small, "sherpa-onnx": small, "moonshine-voice": voice}


def written(folder: Path, **changes: Any) -> Path:
    """Write a model that writes letters only: each runtime shows bytes that are no text in a way of its own."""
    tiny_moonshine(folder, initializer_range=0.15, **changes)
    weights = load_file(folder / "model.safetensors")
    weights["model.decoder.embed_tokens.weight"][[0, 2, *range(3, 259)]] = 0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def exported(sources: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the folder and the settings of a format, which is written once."""
    made: dict[tuple[str, str], Any] = {}

    def export(name: str, variant: str) -> Any:
        if (name, variant) not in made:
            folder = tmp_path_factory.mktemp("exported")
            made[name, variant] = folder, converter(name).convert(sources[name], folder, variant)
        return made[name, variant]

    return export


def converter(name: str) -> Any:
    (chosen,) = [known for known in FORMATS if known.name == name]
    return importlib.import_module(chosen.modules["moonshine"].converter)


def runtime(name: str) -> Any:
    (chosen,) = [known for known in FORMATS if known.name == name]
    return importlib.import_module(str(chosen.modules["moonshine"].runtime))


@pytest.mark.parametrize("name", FILES)
def test_reads_what_torch_reads(name: str, sources: Any, exported: Any) -> None:
    """2.048 s: whole windows of moonshine-voice, whose cap equals ours there."""
    folder, settings = exported(name, "fp32")
    utterances = [clip(2.048, seed=seed) for seed in range(3)]
    adapter = MoonshineAdapter(str(sources[name]))
    texts = [adapter.transcribe(adapter.collator()([utterance])) for utterance in utterances]
    model = runtime(name).load(folder, settings, 1)
    read = model.transcribe([utterance.waveform.numpy() for utterance in utterances])
    expected = [text[0] for text in texts]
    assert len(set(expected)) > 1
    if name == "sherpa-onnx":  # its cap is 15 tokens a second, which a text without an end makes use of
        assert [hypothesis.text[: len(text)] for hypothesis, text in zip(read, expected, strict=True)] == expected
    else:
        assert [hypothesis.text for hypothesis in read] == expected


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_finds_no_problem_in_good_files(name: str, variant: str, sources: Any, exported: Any) -> None:
    folder, settings = exported(name, variant)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES[name])
    assert converter(name).problems(sources[name], folder, settings) == []


def test_rounded_graphs_hold_the_embedding_once(exported: Any) -> None:
    matrices = onnx_files.weights_of(exported("onnx", "int8")[0] / "decoder_model_merged.onnx")
    assert [name for name, array in matrices.items() if array.shape == (32, 323)] == ["embedding.matrix_quantized"]


@pytest.mark.parametrize("name", FILES)
def test_refuses_truncated_files(name: str, sources: Any, exported: Any, tmp_path: Path) -> None:
    for file in FILES[name]:
        folder = copied(exported(name, "int8")[0], tmp_path / file)
        (folder / file).write_bytes((folder / file).read_bytes()[: -(folder / file).stat().st_size // 3])
        assert any(file in problem for problem in problems(name, "int8", sources[name], folder)), file


@pytest.mark.parametrize("name", FILES)
def test_refuses_missing_files(name: str, sources: Any, exported: Any, tmp_path: Path) -> None:
    for file in FILES[name]:
        folder = copied(exported(name, "int8")[0], tmp_path / file)
        (folder / file).unlink()
        assert any(file in problem for problem in problems(name, "int8", sources[name], folder)), file
        with pytest.raises(ModelError, match=file):
            runtime(name).load(folder, exported(name, "int8")[1], 1)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_refuses_the_weights_of_another_training(variant: str, sources: Any, exported: Any, tmp_path: Path) -> None:
    """As if LoRA were not merged: the files are those of the untouched model."""
    tuned = shutil.copytree(sources["onnx"], tmp_path / "tuned")
    weights = load_file(tuned / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    name = "model.encoder.layers.0.mlp.fc1.weight"
    weights[name] = weights[name] + 0.5 * torch.randn(weights[name].shape, generator=generator)
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    found = problems("onnx", variant, tuned, exported("onnx", variant)[0])
    assert any("encoder_model.onnx computes something else" in problem for problem in found)


def test_refuses_lora_that_is_not_merged(sources: Any, exported: Any, tmp_path: Path) -> None:
    unmerged = shutil.copytree(sources["onnx"], tmp_path / "unmerged")
    weights = load_file(unmerged / "model.safetensors")
    weights["model.decoder.layers.0.self_attn.q_proj.lora_A.weight"] = torch.ones(4, 32)
    save_file(weights, unmerged / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="LoRA that was not merged"):
        problems("onnx", "fp32", unmerged, exported("onnx", "fp32")[0])


def test_refuses_swapped_tensors(sources: Any, exported: Any, tmp_path: Path) -> None:
    folder = copied(exported("onnx", "fp32")[0], tmp_path / "swapped")
    model = onnx.load(str(folder / "encoder_model.onnx"))
    square = [tensor for tensor in model.graph.initializer if list(tensor.dims) == [32, 32]]
    first, second = (numpy_helper.to_array(tensor) for tensor in square[:2])
    square[0].CopyFrom(numpy_helper.from_array(second, square[0].name))
    square[1].CopyFrom(numpy_helper.from_array(first, square[1].name))
    onnx.save(model, str(folder / "encoder_model.onnx"))
    assert any("weights in other places" in problem for problem in problems("onnx", "fp32", sources["onnx"], folder))


@pytest.mark.parametrize("name", FILES)
def test_refuses_another_vocabulary(name: str, sources: Any, exported: Any, tmp_path: Path) -> None:
    folder = copied(exported(name, "int8")[0], tmp_path / "tokens")
    path = folder / FILES[name][2]
    if name == "onnx":
        path.write_text(path.read_text().replace('"▁the"', '"▁thy"'))
    elif name == "sherpa-onnx":
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    else:
        path.write_bytes(moonshine_voice.packed((moonshine_voice.unpacked(path.read_bytes()) or [])[:-1]))
    assert any(path.name in problem for problem in problems(name, "int8", sources[name], folder))


def test_lengths_of_tokens_survive_packing() -> None:
    pieces = [b"", b"a", b"b" * 127, b"c" * 128, b"d" * 1000]
    assert moonshine_voice.unpacked(moonshine_voice.packed(pieces)) == pieces
    assert moonshine_voice.unpacked(moonshine_voice.packed(pieces)[:-1]) is None


def test_says_what_a_format_does_not_take(sources: Any, tmp_path: Path) -> None:
    streaming = tiny_moonshine(tmp_path / "streaming", streaming=True)
    for name in FILES:
        with pytest.raises(ModelError, match="Moonshine Streaming"):
            converter(name).convert(streaming, tmp_path, "int8")
    with pytest.raises(ModelError, match="tiny and base only: take --to onnx"):
        converter("moonshine-voice").convert(tiny_moonshine(tmp_path / "small"), tmp_path, "int8")
    other = shutil.copytree(sources["onnx"], tmp_path / "other")
    edit_json(other / "config.json", decoder_start_token_id=3)
    with pytest.raises(ModelError, match="1 and 2 only: take --to onnx"):
        converter("sherpa-onnx").convert(other, tmp_path, "int8")


def copied(folder: Path, target: Path) -> Path:
    return shutil.copytree(folder, target)


def problems(name: str, variant: str, source: Path, folder: Path) -> list[str]:
    found: list[str] = converter(name).problems(source, folder, {"variant": variant})
    return found
