"""Model folders as broken copies leave them: each is refused by a sentence that names the file, or loaded after all."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from asr_lightning.adapters import model_files, registry
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.errors import ModelError, OptionError
from tests.tiny_hf import edit_json
from tests.tiny_models import clip

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 151061672\n"
PAGE = "\n<!DOCTYPE html><html>404</html>"
AGAIN = "copy or download it again"


@pytest.fixture(scope="module")
def saved_whisper(whisper_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An English-only Whisper as a run saves it, without our own record; do not write here."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    WhisperAdapter(str(whisper_folders["en"])).save(folder)
    (folder / "asr_lightning.json").unlink()
    return folder


@pytest.fixture
def folder(saved_whisper: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(saved_whisper, tmp_path / "model"))


def write(name: str, content: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


def as_bin(content: str | None = None) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        path = folder / "pytorch_model.bin"
        torch.save(weights, path) if content is None else path.write_text(content)

    return spoil


def cut(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


def remove(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def in_two_shards(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    index: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / shard, metadata={"format": "pt"})
        index |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def without_second_shard(folder: Path) -> None:
    in_two_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def with_prefix(prefix: str, suffix: str = ".safetensors") -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        weights = {prefix + name: tensor for name, tensor in load_file(folder / "model.safetensors").items()}
        (folder / "model.safetensors").unlink()
        if suffix == ".bin":
            torch.save(weights, folder / "pytorch_model.bin")
        else:
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return spoil


def with_more_tokens(folder: Path) -> None:
    """Eight more rows, as ``resize_token_embeddings`` makes them, and no generation config."""
    weights, name = load_file(folder / "model.safetensors"), "model.decoder.embed_tokens.weight"
    weights[name] = torch.cat([weights[name], weights[name][:8]])
    weights.pop("proj_out.weight", None)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", vocab_size=len(weights[name]))
    (folder / "generation_config.json").unlink()


LFS = "is a pointer of git-lfs in the place of the file: run `git lfs pull`"
BROKEN = {
    "weights are a pointer": (write("model.safetensors", POINTER), f"model.safetensors {LFS}"),
    "old weights are a pointer": (as_bin(POINTER), f"pytorch_model.bin {LFS}"),
    "weights are a page": (
        write("model.safetensors", PAGE),
        "model.safetensors is a web page in the place of the file",
    ),
    "weights are cut": (cut("model.safetensors"), r"model.safetensors is cut off: it has \d+ of \d+ bytes; " + AGAIN),
    "weights are empty": (write("model.safetensors", ""), f"model.safetensors is empty: {AGAIN}"),
    "weights are text": (write("model.safetensors", "x" * 99), "model.safetensors is no file of weights"),
    "old weights are text": (as_bin("x" * 99), r"pytorch_model.bin\) cannot be read \(it is damaged"),
    "a shard is missing": (without_second_shard, "holds no weights .model-00002-of-00002.safetensors.: copy"),
    "config is cut": (cut("config.json"), f"config.json cannot be read .*: {AGAIN}"),
    "config is a page": (write("config.json", PAGE), "config.json is a web page"),
    "config is of another model": (lambda folder: edit_json(folder / "config.json", d_model=64), "have other shapes"),
    "generation config is cut": (cut("generation_config.json"), f"generation_config.json cannot be read .*: {AGAIN}"),
    "tokenizer is a pointer": (write("tokenizer.json", POINTER), f"tokenizer.json {LFS}"),
    "tokenizer is empty": (write("tokenizer.json", ""), f"tokenizer.json is empty: {AGAIN}"),
    "tokenizer is cut": (cut("tokenizer.json"), f"tokenizer.json cannot be read .*: {AGAIN}"),
    "tokenizer is something else": (write("tokenizer.json", "{}"), "the tokenizer in .* cannot be loaded .*: copy its"),
    "merges are missing": (
        remove("tokenizer.json", "merges.txt"),
        "neither tokenizer.json nor merges.txt: copy merges.txt from",
    ),
    "extractor is cut": (cut("processor_config.json"), f"processor_config.json cannot be read .*: {AGAIN}"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_folder_is_refused_with_file_and_remedy(kind: str, folder: Path) -> None:
    spoil, message = BROKEN[kind]
    spoil(folder)
    with pytest.raises(ModelError, match=message) as error:
        registry.build(str(folder))
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


UNUSUAL = {
    "old weights": as_bin(),
    "two shards": in_two_shards,
    "DataParallel": with_prefix("module."),
    "DataParallel, old weights": with_prefix("module.", ".bin"),
    "torch.compile and DataParallel": with_prefix("_orig_mod.module."),
    "more tokens": with_more_tokens,
    "a pointer that nobody reads": write("pytorch_model.bin", POINTER),
    "an empty file that nobody reads": write("all_results.json", ""),
}


@pytest.mark.parametrize("kind", UNUSUAL)
def test_an_unusual_folder_is_read_as_the_usual_one(
    kind: str, folder: Path, saved_whisper: Path, tmp_path: Path
) -> None:
    UNUSUAL[kind](folder)
    batch = [clip(seconds=0.6)]
    expected, found = WhisperAdapter(str(saved_whisper)), registry.build(str(folder))
    assert found.transcribe(found.collator()(batch)) == expected.transcribe(expected.collator()(batch))
    assert found.language is None, "an English-only model needs no language"
    found.save(tmp_path / "again")
    names = set(load_file(tmp_path / "again" / "model.safetensors"))
    assert names == set(load_file(saved_whisper / "model.safetensors"))


def test_more_tokens_do_not_change_the_recipe(folder: Path, saved_whisper: Path) -> None:
    with_more_tokens(folder)
    assert registry.choose(str(folder)).family == registry.choose(str(saved_whisper)).family == "whisper.en"


def test_a_run_folder_leads_to_its_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError, match=f"is no model folder: .* give that of this run, {tmp_path / 'model'}"):
        registry.choose(str(tmp_path))


def test_a_file_of_another_program_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "tiny.en.pt").write_bytes(b"PK")
    with pytest.raises(ModelError, match="tiny.en.pt is a file, and of these only .nemo files are models"):
        registry.choose(str(tmp_path / "tiny.en.pt"))


def peft_adapter(base: Any, source: Path, folder: Path) -> Any:
    """Save a LoRA adapter with random matrices as peft does; returns the merged network."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        torch.manual_seed(1)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight)
        adapted.peft_config["default"].base_model_name_or_path = str(source)
        adapted.save_pretrained(folder)
        return adapted.merge_and_unload()


@pytest.mark.parametrize("kind", ["whisper", "moonshine", "wav2vec2", "parakeet_tdt"])
def test_an_adapter_of_peft_is_merged_with_its_base(
    kind: str, hf_folders: dict[str, Path], load: Callable[..., Any], tmp_path: Path
) -> None:
    merged = peft_adapter(load(kind).model, hf_folders[kind], tmp_path / "lora")
    untouched, found = load(kind), registry.build(str(tmp_path / "lora"))
    weights, expected = found.model.state_dict(), merged.state_dict()
    assert set(weights) == set(expected)
    changed = [name for name, tensor in untouched.model.state_dict().items() if not torch.equal(tensor, weights[name])]
    assert changed and all(name.endswith(("q_proj.weight", "v_proj.weight")) for name in changed)
    for name in changed:
        assert torch.allclose(weights[name], expected[name])
    trainable = {name: weight.requires_grad for name, weight in found.model.named_parameters()}
    assert trainable == {name: weight.requires_grad for name, weight in untouched.model.named_parameters()}
    own, base = registry.choose(str(tmp_path / "lora")), registry.choose(str(hf_folders[kind]))
    assert own == base._replace(source=str(tmp_path / "lora"))


@pytest.fixture
def lora(hf_folders: dict[str, Path], load: Callable[..., Any], tmp_path: Path) -> Path:
    """A LoRA adapter of a tiny Whisper, to spoil."""
    peft_adapter(load("whisper").model, hf_folders["whisper"], tmp_path / "lora")
    return tmp_path / "lora"


def without_a_matrix(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    del weights[next(iter(weights))]
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: edit_json(folder / "adapter_config.json", base_model_name_or_path="someone/else"),
            "is an adapter for someone/else, .* run `hf download someone/else --local-dir FOLDER`, and write FOLDER as",
        ),
        (
            lambda folder: edit_json(folder / "adapter_config.json", base_model_name_or_path="/elsewhere/base"),
            "is an adapter for /elsewhere/base, .* name: copy that model to a FOLDER here, and write FOLDER as",
        ),
        (
            lambda folder: edit_json(folder / "adapter_config.json", base_model_name_or_path=None),
            "adapter_config.json does not say which model this adapter belongs to",
        ),
        (
            lambda folder: edit_json(folder / "adapter_config.json", base_model_name_or_path=str(folder)),
            "adapter_config.json does not say which model this adapter belongs to",
        ),
        (remove("adapter_model.safetensors"), "holds an adapter without adapter_model.safetensors: copy the whole"),
        (write("adapter_model.safetensors", POINTER), f"adapter_model.safetensors {LFS}"),
        (without_a_matrix, "lacks weights that its adapter_config.json announces .*: copy the whole folder again"),
        (
            lambda folder: edit_json(folder / "adapter_config.json", target_modules=["no_such_layer"]),
            "cannot be merged with .*: check base_model_name_or_path",
        ),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(spoil: Callable[[Path], None], message: str, lora: Path) -> None:
    spoil(lora)
    with pytest.raises(ModelError, match=message):
        registry.build(str(lora))


def test_a_multilingual_base_asks_for_its_language(whisper_folders: dict[str, Path], lora: Path) -> None:
    edit_json(lora / "adapter_config.json", base_model_name_or_path=str(whisper_folders["multilingual"]))
    with pytest.raises(OptionError, match="--language de"):
        registry.build(str(lora))
    assert model_files.base_of(lora) == str(whisper_folders["multilingual"])
