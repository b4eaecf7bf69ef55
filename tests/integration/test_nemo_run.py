"""NeMo end to end: eight clips to WER 0, plain NeMo reading the result, the commands, two processes, and parity."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from asr_lightning.__main__ import main
from asr_lightning.adapters import saved
from asr_lightning.adapters.nemo import NeMoAdapter
from asr_lightning.data import audio
from asr_lightning.types import Utterance
from tests.learning import train_until_read, wer
from tests.nemo_parity import CLIPS, ROOT, ours, theirs
from tests.tiny_nemo import KINDS, tiny_nemo

pytestmark = pytest.mark.nemo
NO_DROPOUT = {f"encoder__{name}": 0.0 for name in ("dropout", "dropout_pre_encoder", "dropout_att")}


@pytest.fixture(scope="module")
def eight() -> list[Utterance]:
    """The eight shortest sample clips, synthetic speech of about 2 s each."""
    clips = [
        Utterance(path.stem, torch.from_numpy(audio.load(path, 16_000)), 16_000, path.with_suffix(".txt").read_text())
        for path in sorted(CLIPS.glob("*.ogg"))
    ]
    return sorted(clips, key=lambda clip: clip.seconds)[:8]


@pytest.mark.parametrize("kind", KINDS)
def test_eight_clips_to_wer_0_and_back_through_plain_nemo(kind: str, eight: list[Utterance], tmp_path: Path) -> None:
    """The model learns by the loss of each kind, and the saved file has what was learned."""
    from nemo.collections.asr.models import ASRModel

    # 128 pieces: with 64, one of these texts has more labels than its clip has frames
    adapter = NeMoAdapter(str(tiny_nemo(tmp_path / "m.nemo", kind, vocab_size=128, **NO_DROPOUT)))
    batch = adapter.collator()(eight)
    steps = train_until_read(adapter, batch)
    print(f"{kind}: WER 0 after {steps} steps")
    (tmp_path / "saved").mkdir()
    adapter.save(tmp_path / "saved")
    model = ASRModel.restore_from(str(tmp_path / "saved" / "model.nemo"), map_location="cpu").eval()
    texts = model.transcribe([clip.waveform.numpy() for clip in eight], batch_size=8, verbose=False)
    assert [hypothesis.text for hypothesis in texts] == adapter.transcribe(batch)
    assert wer(adapter, batch) == 0


def test_wrapper_step_matches_reference_loss(tmp_path: Path) -> None:
    """Each step has the loss of NeMo's own training, including dropout, dither, masks and BatchNorm statistics."""
    source = tiny_nemo(tmp_path / "m.nemo", "ctc", vocab_size=128)
    record, settings = ours(source, tmp_path / "run", ["frontend", "encoder", "head"], 2, CLIPS)
    other = theirs(source, record.batches, settings)
    assert len(record.losses) == 42
    assert record.losses == pytest.approx(other.losses, rel=1e-4)
    assert record.losses[-1] < 0.8 * record.losses[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen short sample clips with a split of their own."""
    folder = tmp_path_factory.mktemp("nemo") / "clips"
    folder.mkdir()
    for path in sorted(CLIPS.glob("*.ogg"), key=lambda path: path.stat().st_size)[:16]:
        for file in (path, path.with_suffix(".txt")):
            shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def run_dir(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on two processes, started as a user starts it."""
    root = tmp_path_factory.mktemp("run")
    source = tiny_nemo(root / "m.nemo", "hybrid-tdt", vocab_size=128)
    processes = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=4"]
    call = [sys.executable, "-m", "asr_lightning", *arguments(folder, root / "run", source, *processes)]
    result = subprocess.run(call, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    (root / "output.txt").write_text(result.stdout + result.stderr)
    return root / "run"


def arguments(folder: Path, run_dir: Path, source: Path, *more: str) -> list[str]:
    """Return arguments of ``fit`` with a NeMo configuration that ships."""
    config = ["--config", str(ROOT / "configs/models/fastconformer_hybrid.yaml")]
    places = [f"--model.adapter.init_args.source={source}", f"--data.audio_dir={folder}", f"--run_dir={run_dir}"]
    return ["fit", *config, *places, "--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--folds=off", *more]


def test_start_has_no_sleep(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NeMo's own script waits 60 s on one device; ``fit`` does not."""
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    source = tiny_nemo(tmp_path / "m.nemo", "hybrid")
    assert main(arguments(folder, tmp_path / "run", source, "--trainer.max_steps=1")) == 0
    assert sum(waits) < 1


def test_run_reports_like_any_other(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    assert set(results) >= {"model", "source", "clips", "dev", "test", "native_mode", "peak_memory_mb", "saved"}
    assert sum(results["clips"].values()) == 16
    assert (run_dir / "model" / "model.nemo").is_file()


def test_output_holds_no_noise(run_dir: Path) -> None:
    """Neither stream has NeMo's log lines, those of its telemetry or its advertisement."""
    printed = (run_dir.parent / "output.txt").read_text()
    assert not re.search(r"\[NeMo|OneLogger|telemetry|Lhotse|exporters|FutureWarning|UserWarning", printed), printed


def test_export_is_best_weights(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The saved file is the chosen candidate, not the last step; the best validation is among the candidates."""
    report = json.loads((run_dir / "report.json").read_text())
    chosen = next(candidate for candidate in report["candidates"] if candidate["chosen"])
    assert report["candidates"][1]["dev_wer"] == pytest.approx(min(row["dev_wer"] for row in report["history"]))
    alone = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
    assert main(["validate", "--run_dir", str(run_dir), *alone]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "dev/wer" in line)
    assert float(row.split("│")[2]) == pytest.approx(chosen["dev_wer"])


def test_saved_run_is_read_by_the_commands(run_dir: Path, folder: Path, tmp_path: Path) -> None:
    assert main(["test", "--run_dir", str(run_dir), "--trainer.accelerator=cpu"]) == 0
    once, again = (json.loads((run_dir / name).read_text()) for name in ("results.json", "test.json"))
    assert again["test"] == once["test"]
    output = tmp_path / "texts.jsonl"
    options = ["--model", str(run_dir / "model"), "--output", str(output), "--device", "cpu"]
    assert main(["predict", str(folder), *options]) == 0
    assert len(output.read_text().splitlines()) == 16


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # resuming, from lightning 2.4
def test_resumed_run_goes_on_as_an_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    source = tiny_nemo(tmp_path / "m.nemo", "ctc", vocab_size=128)
    masks = ["--model.adapter.init_args.spec_augment.num_time_masks=1", "--model.adapter.init_args.ctc_weight=null"]
    more = [*masks, "--train_only.groups=[encoder,head]", "--model.optimizer.schedule=constant"]
    for name, extra in (("whole", []), ("half", ["--trainer.max_epochs=1"]), ("half", ["--ckpt_path=last"])):
        assert main(arguments(folder, tmp_path / name, source, *more, *extra)) == 0
    whole, half = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("whole", "half")
    )
    assert whole.keys() == half.keys()
    assert all(torch.equal(whole[name], half[name]) for name in whole)


def test_unknown_character_is_reported_before_training(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The character is named with its file and a remedy; no file of the user is changed, and no step is made."""
    clips = Path(shutil.copytree(folder, tmp_path / "clips", ignore=shutil.ignore_patterns("*.csv")))
    victim = sorted(clips.glob("*.txt"))[3]
    victim.write_text("call me at 5 o'clock")
    before = {path.name: path.read_bytes() for path in clips.iterdir() if path.suffix != ".csv"}
    assert main(arguments(clips, tmp_path / "run", tiny_nemo(tmp_path / "m.nemo", "hybrid"))) == 2
    printed = capsys.readouterr().err
    assert f"'5' (DIGIT FIVE) in {victim.with_suffix('.ogg').name}" in printed
    assert "25 as twenty-five" in printed and "Traceback" not in printed
    assert "before training" not in printed
    assert {path.name: path.read_bytes() for path in clips.iterdir() if path.suffix != ".csv"} == before


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"not a model", "is no .nemo file, or it is cut short"), (None, "there is no file")],
)
def test_bad_source_is_a_clear_error(
    folder: Path, tmp_path: Path, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.nemo"
    if content is not None:
        path.write_bytes(content)
    assert main(arguments(folder, tmp_path / "run", path)) == 2
    printed = capsys.readouterr().err
    assert message in printed and str(path) in printed and "Traceback" not in printed


def test_pretrained_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both catalogues, asked for a model they cannot deliver."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cannot get nvidia/parakeet-tdt-0.6b-v2 from the model hub"):
        NeMoAdapter("nvidia/parakeet-tdt-0.6b-v2")
    with pytest.raises(ValueError, match=r"NVIDIA's catalogue has no model 'parakeet_tiny', but \w+"):
        NeMoAdapter("parakeet_tiny")


def test_hub_file_in_the_cache_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was downloaded once needs no network: the cache layout of the hub's own client."""
    from huggingface_hub import constants

    snapshot = tmp_path / "models--nvidia--parakeet-tiny" / "snapshots" / "abc"
    tiny_nemo(snapshot / "parakeet-tiny.nemo", "ctc")
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("abc")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert NeMoAdapter("nvidia/parakeet-tiny").source == "nvidia/parakeet-tiny"


def test_state_of_the_checkpoint_is_complete(run_dir: Path) -> None:
    """The file has everything that NeMo restores, including buffers."""
    adapter = saved.load(run_dir / "model")
    before = copy.deepcopy(adapter.model.state_dict())
    again = NeMoAdapter(str(run_dir / "model")).model.state_dict()
    assert all(torch.equal(before[name], again[name]) for name in before)
