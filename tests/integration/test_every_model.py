"""fit, test, predict and resume work for every family by the same command, in which only the model's name changes.

They run on the synthetic tones. The hub's cache holds a tiny random model under each real id, as after a download.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from asr_lightning.__main__ import main
from asr_lightning.adapters import registry
from tests import tiny_hf
from tests.tiny_models import tiny_whisper
from tests.tiny_nemo import tiny_nemo

KINDS = {
    "toy": "toy",
    "whisper-tiny.en": "whisper",
    "moonshine-tiny": "moonshine",
    "moonshine-streaming-tiny": "moonshine_streaming",
    "wav2vec2-base-960h": "wav2vec2",
    "parakeet-ctc-0.6b": "parakeet_ctc",
    "parakeet-tdt-0.6b-v3": "parakeet_tdt",
    "fastconformer-ctc-large": "nemo",
}
NAMES = [
    pytest.param(name, marks=[pytest.mark.nemo] if kind == "nemo" else [pytest.mark.once] if kind != "toy" else [])
    for name, kind in KINDS.items()
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, without a network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def put_into(cache: Path, name: str) -> None:
    """Put a tiny model in the place of the one called ``name``, in the layout of the hub's own client."""
    kind, source = KINDS[name], registry.choose(name).source
    if kind == "toy":
        return
    snapshot = cache / f"models--{source.replace('/', '--')}" / "snapshots" / "abc"
    (snapshot.parents[1] / "refs").mkdir(parents=True)
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    if kind == "nemo":
        snapshot.mkdir(parents=True)
        tiny_nemo(snapshot / f"{source.split('/')[1]}.nemo", "ctc")
    elif kind == "whisper":
        tiny_whisper(snapshot, multilingual=False)
    else:
        tiny_hf.write_tiny(snapshot, kind)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # resuming, from lightning 2.4
def test_fit_test_predict_and_resume_by_name(
    name: str, cache: Path, tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_into(cache, name)
    run_dir = tmp_path / "run"
    fit = [
        "fit",
        "--model",
        name,
        "--data.audio_dir",
        str(tones),
        "--run_dir",
        str(run_dir),
        "--trainer.accelerator=cpu",
        "--folds=off",  # folds leave nothing to resume
    ]
    assert main([*fit, "--trainer.max_epochs=1"]) == 0, capsys.readouterr().err
    results = json.loads((run_dir / "results.json").read_text())
    assert results["model"] == registry.choose(name).source
    assert sum(results["clips"].values()) == 12

    assert main(["test", "--run_dir", str(run_dir), "--trainer.accelerator=cpu"]) == 0
    assert json.loads((run_dir / "test.json").read_text())["test"] == results["test"]

    output = tmp_path / "texts.jsonl"
    assert (
        main(["predict", str(tones), "--model", str(run_dir / "model"), "--output", str(output), "--device=cpu"]) == 0
    )
    assert len(output.read_text().splitlines()) == 12

    first = checkpoint(run_dir)
    assert main([*fit, "--trainer.max_epochs=2", "--ckpt_path=last"]) == 0, capsys.readouterr().err
    again = checkpoint(run_dir)
    assert (first["epoch"], again["epoch"]) == (0, 1)
    assert again["global_step"] == 2 * first["global_step"] > 0
    assert any(not torch.equal(tensor, again["state_dict"][name]) for name, tensor in first["state_dict"].items())
    assert "Traceback" not in capsys.readouterr().err


def checkpoint(run_dir: Path) -> dict:
    return torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.mark.once
def test_lora_by_one_line(cache: Path, tones: Path, tmp_path: Path) -> None:
    """The same command takes one more option; the saved model has the keys of the untouched one."""
    from safetensors import safe_open

    put_into(cache, "moonshine-tiny")
    run_dir = tmp_path / "run"
    options = ["--data.audio_dir", str(tones), "--run_dir", str(run_dir), "--trainer.accelerator=cpu"]
    lora = ["--model.adapter.init_args.lora.rank=8", "--trainer.max_epochs=1", "--model.optimizer.lr=1e-3"]
    assert main(["fit", "--model", "moonshine-tiny", *options, *lora]) == 0
    (untouched,) = cache.rglob("model.safetensors")
    keys = []
    for path in (untouched, run_dir / "model" / "model.safetensors"):
        with safe_open(path, framework="pt") as file:
            keys.append(set(file.keys()))
    assert keys[0] == keys[1]
    with safe_open(run_dir / "checkpoints" / "folds" / "fold-1-of-4.safetensors", framework="pt") as file:
        keys.append(set(file.keys()))
    assert any("lora_A" in name for name in keys[2]), "each of the folds is merged before they are averaged"


@pytest.mark.once
def test_untouched_model_reads_by_name(cache: Path, tones: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_into(cache, "moonshine-tiny")
    assert main(["predict", str(tones), "--model", "moonshine-tiny", "--device=cpu"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12
