"""OpenAI's file, MLX's and CoreML's hold the model, and damage to them is noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import WhisperForConditionalGeneration

from asr_lightning.errors import MissingExtraError, ModelError
from asr_lightning.export.whisper import coreml
from asr_lightning.export.whisper import mlx as mlx_whisper
from asr_lightning.export.whisper import openai as openai_whisper
from asr_lightning.runtime import exported
from asr_lightning.runtime.exported import ExportRecord
from asr_lightning.runtime.formats import FORMATS
from tests.tiny_whisper_cpp import edit_weights

Weights = dict[str, Any]

THEIRS = {
    "encoder.conv1.weight": "model.encoder.conv1.weight",
    "encoder.positional_embedding": "model.encoder.embed_positions.weight",
    "encoder.blocks.1.attn.query.bias": "model.encoder.layers.1.self_attn.q_proj.bias",
    "encoder.blocks.1.mlp_ln.weight": "model.encoder.layers.1.final_layer_norm.weight",
    "encoder.ln_post.bias": "model.encoder.layer_norm.bias",
    "decoder.token_embedding.weight": "model.decoder.embed_tokens.weight",
    "decoder.positional_embedding": "model.decoder.embed_positions.weight",
    "decoder.blocks.0.attn_ln.weight": "model.decoder.layers.0.self_attn_layer_norm.weight",
    "decoder.blocks.0.cross_attn.key.weight": "model.decoder.layers.0.encoder_attn.k_proj.weight",
    "decoder.blocks.0.cross_attn.out.bias": "model.decoder.layers.0.encoder_attn.out_proj.bias",
    "decoder.blocks.0.cross_attn_ln.bias": "model.decoder.layers.0.encoder_attn_layer_norm.bias",
    "decoder.blocks.1.mlp.0.weight": "model.decoder.layers.1.fc1.weight",
    "decoder.blocks.1.mlp.2.weight": "model.decoder.layers.1.fc2.weight",
    "decoder.ln.weight": "model.decoder.layer_norm.weight",
}
"""Names of openai/whisper ``model.py``, one of each kind, and what they are in transformers; written by hand."""


def attention(x: Any, memory: Any, weights: Weights, name: str, heads: int, ops: Any) -> Any:
    """OpenAI's ``MultiHeadAttention`` without a mask, in the functions of ``ops``."""

    def project(part: str, value: Any) -> Any:
        result = value @ weights[f"{name}.{part}.weight"].T
        return result + weights[f"{name}.{part}.bias"] if part != "key" else result

    def split(value: Any) -> Any:
        return value.reshape(len(value), heads, -1).swapaxes(0, 1)

    query, key, value = split(project("query", x)), split(project("key", memory)), split(project("value", memory))
    scores = ops.softmax(query @ key.swapaxes(1, 2) * query.shape[-1] ** -0.5, axis=-1)
    return project("out", (scores @ value).swapaxes(0, 1).reshape(x.shape))


@pytest.mark.parametrize(("variant", "dtype"), [("fp16", torch.float16), ("fp32", torch.float32)])
def test_openais_file_holds_the_weights(german: Path, tmp_path: Path, variant: str, dtype: torch.dtype) -> None:
    settings = openai_whisper.convert(german, tmp_path, variant)
    assert openai_whisper.problems(german, tmp_path, settings) == []
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    assert content["dims"] == {
        "n_mels": 80, "n_audio_ctx": 1500, "n_audio_state": 32, "n_audio_head": 2, "n_audio_layer": 2, "n_vocab": 51865,
        "n_text_ctx": 448, "n_text_state": 32, "n_text_head": 2, "n_text_layer": 2,
    }  # fmt: skip
    own = WhisperForConditionalGeneration.from_pretrained(german).state_dict()
    for name, theirs in THEIRS.items():
        assert torch.equal(content["model_state_dict"][name], own[theirs].to(dtype))
    assert len(content["model_state_dict"]) == len(own) - 1  # proj_out is the embedding


def with_state(change: Callable[[Weights], Weights]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = torch.load(folder / "model.pt", weights_only=True)
        content["model_state_dict"] = change(content["model_state_dict"])
        torch.save(content, folder / "model.pt")

    return edit


def with_dims(**changes: int) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = torch.load(folder / "model.pt", weights_only=True)
        content["dims"] |= changes
        torch.save(content, folder / "model.pt")

    return edit


def cut(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-5000]) and None


QUERY, KEY = "decoder.blocks.0.cross_attn.query.weight", "decoder.blocks.0.cross_attn.key.weight"
SABOTAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "wrong vocabulary": (with_dims(n_vocab=51864), "dims"),
    "swapped": (with_state(lambda w: {**w, QUERY: w[KEY], KEY: w[QUERY]}), "is not that of the model"),
    "LoRA": (with_state(lambda w: {**w, "decoder.blocks.0.attn.query.lora_A.weight": w[KEY]}), "LoRA was not merged"),
    "missing": (with_state(lambda w: {name: w[name] for name in w if name != KEY}), "lack " + KEY),
    "other shape": (with_state(lambda w: {**w, KEY: w[KEY][:5]}), "has the shape"),
    "cut off": (cut("model.pt"), "damaged"),
    "no file": (lambda folder: (folder / "model.pt").unlink(), "model.pt"),
    "something else": (lambda folder: torch.save([1], folder / "model.pt"), "does not hold"),
}


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotage_of_openais_file_is_noticed(german: Path, tmp_path: Path, name: str) -> None:
    change, reason = SABOTAGES[name]
    settings = openai_whisper.convert(german, tmp_path, "fp16")
    change(tmp_path)
    assert reason in " ".join(openai_whisper.problems(german, tmp_path, settings))


def test_mlx_computes_the_encoder_from_its_file(german: Path, tmp_path: Path) -> None:
    mx = pytest.importorskip("mlx.core", exc_type=ImportError)  # on Linux it needs mlx[cpu]
    nn = pytest.importorskip("mlx.nn")
    mx.set_default_device(mx.cpu)
    settings = mlx_whisper.convert(german, tmp_path, "fp32")
    assert mlx_whisper.problems(german, tmp_path, settings) == []
    weights = mx.load(str(tmp_path / "weights.safetensors"))
    dims = json.loads((tmp_path / "config.json").read_text())
    assert dims.pop("model_type") == "whisper" and dims["n_audio_ctx"] == 1500
    assert weights["alignment_heads"].tolist() == [[1, 0], [1, 1]]
    features = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    encoder = WhisperForConditionalGeneration.from_pretrained(german).model.encoder.eval()
    with torch.no_grad():
        wanted = encoder(features).last_hidden_state[0].numpy()

    def norm(x: Any, name: str) -> Any:
        return mx.fast.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)

    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    x = mx.array(features.numpy()).swapaxes(1, 2)
    for conv, stride in (("conv1", 1), ("conv2", 2)):
        name = f"encoder.{conv}"
        x = nn.gelu(mx.conv1d(x, weights[f"{name}.weight"], stride=stride, padding=1) + weights[f"{name}.bias"])
    x = x[0] + mx.array(mlx_whisper.sinusoids(1500, 32).astype(np.float32))
    for number in range(dims["n_audio_layer"]):
        block = f"encoder.blocks.{number}"
        y = norm(x, f"{block}.attn_ln")
        x = x + attention(y, y, weights, f"{block}.attn", dims["n_audio_head"], mx)
        x = x + linear(nn.gelu(linear(norm(x, f"{block}.mlp_ln"), f"{block}.mlp1")), f"{block}.mlp2")
    assert np.allclose(np.array(norm(x, "encoder.ln_post")), wanted, atol=2e-4)


def with_weights(change: Callable[[Weights], Weights]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "weights.safetensors"
        save_file(change({name: tensor.copy() for name, tensor in load_file(path).items()}), path)

    return edit


MLX_SABOTAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "wrong vocabulary": (
        lambda f: (f / "config.json").write_text((f / "config.json").read_text().replace("51865", "51864")),
        "other sizes",
    ),
    "no alignment heads": (with_weights(lambda w: {n: w[n] for n in w if n != "alignment_heads"}), "alignment heads"),
    "swapped": (with_weights(lambda w: {**w, QUERY: w[KEY], KEY: w[QUERY]}), "is not that of the model"),
    "torch's order": (
        with_weights(lambda w: {**w, "encoder.conv1.weight": w["encoder.conv1.weight"].swapaxes(1, 2).copy()}),
        "has the shape",
    ),
    "LoRA": (with_weights(lambda w: {**w, "decoder.blocks.0.mlp1.lora_A.weight": w[KEY]}), "LoRA was not merged"),
    "missing": (with_weights(lambda w: {n: w[n] for n in w if n != KEY}), "lack " + KEY),
    "cut off": (cut("weights.safetensors"), "damaged"),
    "no file": (lambda folder: (folder / "weights.safetensors").unlink(), "weights.safetensors"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "config.json"),
}


@pytest.mark.parametrize("name", MLX_SABOTAGES)
def test_sabotage_of_mlx_files_is_noticed(german: Path, tmp_path: Path, name: str) -> None:
    change, reason = MLX_SABOTAGES[name]
    settings = mlx_whisper.convert(german, tmp_path, "fp16")
    change(tmp_path)
    assert reason in " ".join(mlx_whisper.problems(german, tmp_path, settings))


def test_files_are_readable_by_others(german: Path, tmp_path: Path) -> None:
    mlx_whisper.convert(german, tmp_path, "fp16")
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in tmp_path.iterdir())


def test_a_format_that_nobody_runs_here_says_so() -> None:
    never_run = [known for known in FORMATS if any(modules.runtime is None for modules in known.modules.values())]
    assert never_run and all(known.note for known in never_run)


@pytest.mark.skipif(find_spec("whisper") is not None, reason="openai-whisper is installed")
def test_the_remedy_for_a_missing_openai_whisper_is_its_own_name(tmp_path: Path) -> None:
    ExportRecord("openai", "fp16", "whisper", "", {}, {}, {}, None, "").write(tmp_path)
    with pytest.raises(MissingExtraError, match="pip install openai-whisper"):
        exported.load(tmp_path)


def test_mlx_refuses_trained_positions(german: Path, tmp_path: Path) -> None:
    source = shutil.copytree(german, tmp_path / "model")
    edit_weights(source, scale="model.encoder.embed_positions.weight")
    with pytest.raises(ModelError, match="sinusoids"):
        mlx_whisper.convert(source, tmp_path, "fp16")


def test_coremls_program_computes_the_encoder(english: Path, german: Path, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    settings = coreml.convert(english, tmp_path, "fp16")
    assert coreml.problems(english, tmp_path, settings) == []
    package = tmp_path / coreml.FILE_NAME
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in package.rglob("*"))
    other = shutil.copytree(english, tmp_path / "model")
    edit_weights(other, scale="model.encoder.layers.1.fc2.weight")
    assert "another encoder" in coreml.problems(other, tmp_path, settings)[0]
    assert "settings" in coreml.problems(german, tmp_path, settings)[0]
    weights = next(package.rglob("weight.bin"))
    weights.write_bytes(weights.read_bytes()[:-20_000])
    assert coreml.problems(english, tmp_path, settings)
    shutil.rmtree(package)
    assert "cannot be read" in coreml.problems(english, tmp_path, settings)[0]


@pytest.mark.skipif(not (os.environ.get("ASR_TEST_SLOW") and find_spec("whisper")), reason="needs openai-whisper")
def test_openai_whisper_loads_the_file(german: Path, tmp_path: Path) -> None:
    openai_whisper.convert(german, tmp_path, "fp32")
    code = f"import whisper; print(whisper.load_model({str(tmp_path / 'model.pt')!r}, device='cpu').dims.n_vocab)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "51865", done.stderr
