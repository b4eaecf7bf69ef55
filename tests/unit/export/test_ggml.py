"""What is written for whisper.cpp is the model, what it cannot hold is refused, and damage is noticed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from asr_lightning.errors import ModelError
from asr_lightning.export.whisper import ggml, ggml_file
from asr_lightning.export.whisper import loading as whisper
from asr_lightning.export.whisper.folder import WhisperFolder
from asr_lightning.export.whisper.ggml import FILE_NAME
from asr_lightning.export.whisper.ggml_file import GgmlFile, Packed, pack
from tests.tiny_hf import edit_json
from tests.tiny_whisper_cpp import edit_weights

VARIANTS = ("q8_0", "f16", "q5_1")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", ["english", "german"])
def test_what_is_written_has_no_problems(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, variant: str
) -> None:
    source = request.getfixturevalue(model)
    settings = ggml.convert(source, tmp_path, variant)
    assert ggml.problems(source, tmp_path, settings) == []
    assert settings["file_bytes"] == (tmp_path / FILE_NAME).stat().st_size


@pytest.mark.parametrize("model", ["english", "german"])
@pytest.mark.parametrize("is_specialized", [True, False])
def test_settings_are_those_of_the_loaded_network(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, is_specialized: bool
) -> None:
    source = shutil.copytree(request.getfixturevalue(model), tmp_path / "model")
    if model == "german":
        edit_json(source / "generation_config.json", language="de")
    if is_specialized:
        record = source / "asr_lightning.json"
        record.write_text(record.read_text().replace('"margin_seconds": 0.64', '"margin_seconds": 1.5'))
    else:
        (source / "asr_lightning.json").unlink()
    wanted = whisper.settings_of(whisper.load(source), is_specialized)
    assert WhisperFolder(source).settings() == wanted
    assert wanted.true_length == is_specialized


@pytest.mark.parametrize("model", ["english", "german"])
def test_each_token_has_the_text_of_the_tokenizer(request: pytest.FixtureRequest, model: str) -> None:
    folder = WhisperFolder(request.getfixturevalue(model))
    texts = ggml.token_texts(folder)
    tokenizer = Tokenizer.from_file(str(folder.path / "tokenizer.json"))
    assert len(texts) == {"english": 50256, "german": 50257}[model]
    assert b" " in texts  # whisper.cpp aborts without it
    chosen = [*range(0, 400), *range(50000, 50256)]
    assert [texts[token].decode("utf-8", "replace") for token in chosen] == [tokenizer.decode([t]) for t in chosen]


def test_converting_loads_no_torch(english: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from asr_lightning.export.whisper import ggml
from asr_lightning.export.whisper import mlx as mlx_whisper
from asr_lightning.runtime.whisper import whisper_cpp
source, target = Path({str(english)!r}), Path({str(tmp_path)!r})
for module, variant in ((ggml, "f16"), (mlx_whisper, "fp16")):
    settings = module.convert(source, target, variant)
    print(module.problems(source, target, settings))
    if module is ggml:
        whisper_cpp.load(target, settings, 1)
print([name for name in ("torch", "transformers", "lightning") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n[]\n[]\n", done.stderr


def changed_config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / "config.json", **changes)


REFUSED = {
    "added tokens": (changed_config(vocab_size=51870), "vocabulary of 51870"),
    "another end": (
        lambda folder: edit_json(folder / "generation_config.json", eos_token_id=50300),
        "50300 as its end",
    ),
    "null positions": (changed_config(max_target_positions=None), "null for max_target_positions"),
    "boolean width": (changed_config(d_model=True), "true for d_model"),
    "another inside": (changed_config(encoder_ffn_dim=64), "64 for encoder_ffn_dim"),
    "another activation": (changed_config(activation_function="relu"), "activation_function"),
    "another family": (changed_config(model_type="moonshine"), "no Whisper"),
    "more layers": (changed_config(decoder_layers=3), "lack decoder.blocks.2"),
    "no tokenizer": (lambda f: [(f / name).unlink() for name in ("tokenizer.json", "vocab.json")], "vocab.json"),
    "no generation settings": (lambda folder: (folder / "generation_config.json").unlink(), "generation_config.json"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "weights"),
    "weights cut off": (lambda f: (f / "model.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b'{"a":{'), "cut off"),
    "LoRA": (
        lambda folder: edit_weights(
            folder, rename={"model.decoder.layers.0.fc1.weight": "model.decoder.layers.0.fc1.lora_A.default.weight"}
        ),
        "LoRA was not merged",
    ),
    "a weight is missing": (lambda f: edit_weights(f, drop="model.encoder.conv2.bias"), "lack encoder.conv2.bias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_whisper_cpp_cannot_hold_is_refused(english: Path, tmp_path: Path, name: str) -> None:
    change, reason = REFUSED[name]
    source = shutil.copytree(english, tmp_path / "model")
    change(source)
    with pytest.raises(ModelError, match=reason):
        ggml.convert(source, tmp_path, "f16")


def test_max_length_is_not_asked_for(english: Path, tmp_path: Path) -> None:
    """transformers 5 writes null there, which breaks the converter of whisper.cpp."""
    source = shutil.copytree(english, tmp_path / "model")
    edit_json(source / "config.json", max_length=None)
    ggml.convert(source, tmp_path, "f16")
    assert ggml_file.read(tmp_path / FILE_NAME).hparams.n_text_ctx == 448


def rewrite(path: Path, change: Callable[[GgmlFile], GgmlFile]) -> None:
    changed = change(ggml_file.read(path))
    ggml_file.write(path, changed.hparams, changed.mel_filters, changed.tokens, changed.tensors.items())


def with_hparam(**changes: int) -> Callable[[GgmlFile], GgmlFile]:
    return lambda f: f._replace(hparams=type(f.hparams)(**{**vars(f.hparams), **changes}))


def with_tensors(change: Callable[[dict[str, Packed]], dict[str, Packed]]) -> Callable[[GgmlFile], GgmlFile]:
    return lambda file: file._replace(tensors=change(dict(file.tensors)))


QUERY, KEY = "decoder.blocks.0.cross_attn.query.weight", "decoder.blocks.0.cross_attn.key.weight"
SABOTAGES = {
    "wrong vocabulary": (with_hparam(n_vocab=51865), "51865 for n_vocab"),
    "wrong mels": (with_hparam(n_mels=128), "128 for n_mels"),
    "wrong heads": (with_hparam(n_text_head=4), "4 for n_text_head"),
    "unknown file type": (with_hparam(file_type=0), "file type 0"),
    "another file type": (with_hparam(file_type=2007), "wants q8_0"),
    "other filters": (lambda file: file._replace(mel_filters=file.mel_filters[::-1]), "mel filters"),
    "missing tokenizer": (lambda file: file._replace(tokens=[]), "0 tokens of text"),
    "shifted tokens": (lambda file: file._replace(tokens=[b"", *file.tokens[:-1]]), "have another text"),
    "swapped": (with_tensors(lambda t: {**t, QUERY: t[KEY], KEY: t[QUERY]}), "is not that of the model"),
    "LoRA": (with_tensors(lambda t: {**t, "decoder.blocks.0.mlp.0.lora_A.weight": t[QUERY]}), "LoRA was not merged"),
    "a weight is missing": (with_tensors(lambda t: {n: p for n, p in t.items() if n != KEY}), "lack " + KEY),
    "not a number": (
        with_tensors(lambda t: {**t, QUERY: pack(np.full(t[QUERY].shape, np.nan), "f16")}),
        "is not that of the model",
    ),
    "half a scale": (
        with_tensors(lambda t: {**t, QUERY: pack(ggml_file.unpack(t[QUERY]) / 2, "f16")}),
        "is not that of the model",
    ),
}


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotage_is_noticed(english: Path, tmp_path: Path, name: str) -> None:
    change, reason = SABOTAGES[name]
    settings = ggml.convert(english, tmp_path, "f16")
    rewrite(tmp_path / FILE_NAME, change)
    found = ggml.problems(english, tmp_path, settings)
    assert found and any(part in " ".join(found) for part in reason.split("|")), found


def test_files_that_are_cut_off_or_missing_are_noticed(english: Path, tmp_path: Path) -> None:
    settings = ggml.convert(english, tmp_path, "q5_1")
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    for end in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        assert "cut off" in ggml.problems(english, tmp_path, settings)[0]
    path.unlink()
    assert FILE_NAME in ggml.problems(english, tmp_path, settings)[0]


@pytest.mark.parametrize("change", [{"alignment_heads": []}, {"prompt": [1, 2]}, {"num_mels": 128}, {"eos": "x"}])
def test_settings_of_another_model_are_noticed(english: Path, tmp_path: Path, change: dict[str, object]) -> None:
    settings = ggml.convert(english, tmp_path, "q8_0")
    assert "settings" in ggml.problems(english, tmp_path, {**settings, **change})[0]
    assert "settings" in ggml.problems(english, tmp_path, {})[0]
