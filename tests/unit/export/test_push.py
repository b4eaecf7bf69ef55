"""``push`` and the model card, against a hub on this machine that speaks the protocol of the real one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import ModelCard, constants
from huggingface_hub.repocard_data import model_index_to_eval_results

from asr_lightning.__main__ import main
from asr_lightning.errors import ModelError
from asr_lightning.export import card, place
from asr_lightning.reports.build import SCHEMA
from asr_lightning.runtime.exported import ExportRecord, Measured, sha256_of
from tests.unit.export.hub import TOKEN, Hub, running

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload:DeprecationWarning")
"""The client of the hub uploads large files in a form that its HTTP library deprecates."""

SECRET = "Whatever happens, stay calm"
NAME = "ada/my-voice"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as ``specialize`` leaves it, with files that must never be uploaded."""
    run = tmp_path_factory.mktemp("maria") / "marias voice"
    model = run / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text('{"model_type": "whisper", "vocab_size": 51864, "d_model": 8}')
    (model / "asr_lightning.json").write_text(
        json.dumps({"adapter": "asr_lightning.adapters.whisper.WhisperAdapter", "init_args": {"language": None}})
    )
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}" + bytes(range(256)) * 64)
    (model / "merges.txt").write_text("#version: 0.2\n")
    for name in ("001.wav", "001.txt", "last.ckpt", "notes.json", "checkpoints/optimizer.bin", ".env"):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(SECRET)
    (run / "report.json").write_text(json.dumps(report()))
    (run / "test_transcripts.csv").write_text(SECRET)
    return run


def report() -> dict[str, object]:
    """The content of ``report.json``."""
    score = {"wer": 0.4, "raw_wer": 0.5, "cer": 0.2, "mean_wer": 0.4, "exact": 0.1}
    change = {"difference": -0.3, "low": -0.37, "high": -0.22, "p_better": 1.0, "draws": 9, "groups": 49}
    section = {"clips": 49, "words": 347, "before": score, "after": {**score, "wer": 0.1}, "change": change}
    return {
        "schema": SCHEMA,
        "verdict": {"word": "better", "sentence": SECRET, "warnings": []},
        "model": "openai/whisper-tiny.en",
        "source": "/home/maria/whisper",
        "decision": SECRET,
        "normalizer": {"name": "basic", "version": "basic (asr_lightning 0.1.0)"},
        "test": section, "dev": section, "native": section,
        "canary": {"name": "/home/maria/friends", "normalizer": "english", "modes": {"as trained": section}},
        "candidates": [{"name": "epoch 3", "alpha": 1.0, "chosen": True}],
        "utterances": [{"uid": "001", "reference": SECRET}],
        "data": {
            "name": "/home/maria/clips", "sha256": "a" * 64, "split_sha256": "b" * 64,
            "clips": {"train": 166, "dev": 74, "test": 49}, "seconds": {"train": 438.0, "dev": 193.0, "test": 130.0},
        },
        "cost": {
            "best_epoch": 3.0, "train_seconds": 1.0, "train_utterances_per_second": 1.0, "validation_seconds": 1.0,
            "total_seconds": 1.0, "peak_memory_mb": 1.0,
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def export(made: Path) -> Path:
    """An export of the run."""
    folder = made / "exports" / "ctranslate2-int8"
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(bytes(1000))
    (folder / "vocabulary.json").write_text("[]")
    measured = Measured(49, 0.147, 0.1326, 0.94, 58, 90, 58, 300)
    files, settings = sha256_of(folder), {"language": "en"}
    (folder / "001.wav").write_text(SECRET)
    ExportRecord(
        "ctranslate2", "int8", "whisper", "/home/maria/whisper", settings, files, {}, measured, "c" * 64, "marias voice"
    ).write(folder)
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub, which the client in this process takes for the only one."""
    hub = Hub()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with running(hub) as url:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        yield hub


def test_the_files_of_the_model_and_the_card_are_uploaded_privately(
    made: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(made), NAME]) == 0
    found = hub.repositories[NAME]
    assert (found.private, found.commits) == (True, 1)
    own = {"config.json", "asr_lightning.json", "model.safetensors", "merges.txt"}
    assert set(found.files) == own | {"README.md"}
    assert all(found.files[name] == (made / "model" / name).read_bytes() for name in own)
    assert "5 files, private" in capsys.readouterr().out
    assert not any(SECRET.encode() in content or b"maria" in content for content in found.files.values())


def test_an_export_is_uploaded_as_it_was_recorded(export: Path, hub: Hub) -> None:
    assert main(["push", str(export), NAME]) == 0
    files = hub.repositories[NAME].files
    assert set(files) == {"model.bin", "vocabulary.json", "export.json", "README.md"}
    assert not any(SECRET.encode() in content or b"maria" in content for content in files.values())
    assert json.loads(files["export.json"])["measured"]["wer"] == 0.147
    text = files["README.md"].decode()
    assert "| ctranslate2, int8 |" in text and "| 14.7% | 13.3% | 94% | 58 |" in text
    assert "pip install 'asr-lightning[runtime]'" in text and "faster-whisper" in text


def test_the_card_is_valid_and_says_what_matters(made: Path) -> None:
    text = card.card_text(place.find(made), NAME)
    read = ModelCard(text)
    assert read.data.base_model == "openai/whisper-tiny.en"
    assert (read.data.license, read.data.language, read.data.library_name) == ("apache-2.0", "en", "transformers")
    name, results = model_index_to_eval_results(read.data.to_dict()["model-index"])
    assert (name, [result.metric_value for result in results]) == ("my-voice", [10.0, 40.0])
    assert {result.metric_args["normalizer"] for result in results} == {"basic (asr_lightning 0.1.0)"}
    assert {result.dataset_revision for result in results} == {"a" * 64}
    for words in (
        "-30.0 points",
        "from -37.0 to -22.0",
        "personal data",
        "can be recovered",
        "| other people, as trained",
    ):
        assert words in text
    assert SECRET not in text and "maria" not in text.lower()


def test_a_model_folder_outside_a_run_has_a_card_without_figures(made: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(made / "model", tmp_path / "copy" / "deep" / "er" / "model"))
    text = card.card_text(place.find(model), NAME)
    assert ModelCard(text).data.eval_results is None
    assert "personal data" in text and "WER" not in text


def test_a_dry_run_uploads_nothing(made: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(made), NAME, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "model.safetensors" in printed and "# my-voice" in printed
    assert hub.asked == []


def test_a_public_repository_needs_the_name_twice(made: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--public"], ["--public", "--confirm", "ada/other"]):
        assert main(["push", str(made), NAME, *arguments]) == 2
        assert f"add --confirm {NAME}" in capsys.readouterr().err
    assert hub.asked == []
    assert main(["push", str(made), NAME, "--public", "--confirm", NAME]) == 0
    assert not hub.repositories[NAME].private
    assert "PUBLIC" in capsys.readouterr().out


@pytest.mark.parametrize("is_there", [True, False])
def test_a_repository_that_is_public_gets_no_file(
    is_there: bool, made: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be there already, or the rules of an organization may have made it public."""
    hub.visibility = "public"
    if is_there:
        assert main(["push", str(made), NAME, "--public", "--confirm", NAME]) == 0
        hub.repositories[NAME].files.clear()
    assert main(["push", str(made), NAME]) == 2
    assert f"{NAME} is public" in capsys.readouterr().err
    assert hub.repositories[NAME].files == {}


def test_a_second_push_is_a_second_commit(made: Path, hub: Hub) -> None:
    for _ in range(2):
        assert main(["push", str(made / "model"), NAME]) == 0
    assert (hub.repositories[NAME].commits, hub.repositories[NAME].private) == (2, True)


def test_no_token(
    made: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    assert main(["push", str(made), NAME]) == 2
    assert "there is no token for the hub: run hf auth login, or set HF_TOKEN" in capsys.readouterr().err
    assert hub.asked == []


@pytest.mark.parametrize(
    ("token", "name", "fails_at", "message"),
    [
        ("hf_wrong", NAME, None, "the hub does not accept the token"),
        (TOKEN, "grace/her-voice", None, "the hub does not let you write to grace/her-voice"),
        (TOKEN, NAME, "/preupload", f"the hub does not let you write to {NAME}"),
        (TOKEN, NAME, "/large", "the hub"),
        (TOKEN, NAME, "/commit", f"the hub does not let you write to {NAME}"),
        (TOKEN, "my-voice", None, "give OWNER/NAME"),
    ],
)
def test_what_the_hub_refuses_is_said(
    token: str, name: str, fails_at: str | None, message: str, made: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", token)
    hub.fails_at = fails_at
    assert main(["push", str(made), name]) == 2
    printed = capsys.readouterr().err
    assert message in printed and "Traceback" not in printed and token not in printed
    assert all(repository.files == {} for repository in hub.repositories.values())


def test_a_hub_that_cannot_be_reached_and_the_environment(made: Path, hub: Hub, tmp_path: Path) -> None:
    """A process of its own, which finds the hub by ``HF_ENDPOINT``."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    own = {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    for endpoint, status in ((constants.ENDPOINT, 0), (nobody, 2)):
        command = [sys.executable, "-m", "asr_lightning", "push", str(made), NAME]
        environment = {**os.environ, **own, "HF_ENDPOINT": endpoint}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert result.returncode == status, result.stderr
    assert "the hub cannot be reached" in result.stderr and "Traceback" not in result.stderr
    assert len(hub.repositories[NAME].files) == 5


def test_what_is_no_model_is_refused(tmp_path: Path, export: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["push", str(tmp_path), NAME, "--dry_run"]) == 2
    assert "is no run, no model folder and no export" in capsys.readouterr().err
    broken = Path(shutil.copytree(export, tmp_path / "export"))
    (broken / "model.bin").unlink()
    with pytest.raises(ModelError, match="lacks model.bin: export the model again"):
        place.find(broken)
