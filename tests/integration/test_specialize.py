"""Runs ``specialize`` as a user does: with two arguments, a budget, several seeds, and transcripts of other clips."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from asr_lightning.__main__ import main
from asr_lightning.callbacks.time_budget import seconds_of
from tests.tiny_models import tiny_whisper

CLIPS = Path(__file__).parents[2] / "examples" / "german_accent" / "clips"


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_two_arguments_suffice(tones: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Validated data, baseline, fit, selection, test and report, in a folder named after the data."""
    monkeypatch.chdir(tones.parent)
    assert main(["specialize", "tones", "--model", "toy"]) == 0
    printed = capsys.readouterr()
    run_dir = Path("runs/tones")
    report = json.loads((run_dir / "report.json").read_text())
    assert "report:  runs/tones/report.html" in printed.out
    assert printed.out.rstrip().endswith(report["verdict"]["sentence"])
    assert "minutes of speech, 9 train, 2 dev, 1 test" in printed.err
    assert {"model", "report.html", "report.json", "report.md", "results.json"} <= {p.name for p in run_dir.iterdir()}
    assert [row["step"] for row in report["history"]] == sorted(row["step"] for row in report["history"])
    assert len(report["data"]["sha256"]) == len(report["data"]["split_sha256"]) == 64


def test_seeds_report_their_spread(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The run folder has the best on dev of the seeds and their average; the same seeds give the same weights again."""
    runs = [tmp_path / "once", tmp_path / "again"]
    for run_dir in runs:
        options = ["--model", "toy", "--seeds", "2", "--seed", "3", "--run_dir", str(run_dir)]
        assert main(["specialize", str(tones), *options, "--trainer.max_epochs", "8"]) == 0
    assert "test WER" in capsys.readouterr().out
    summary = json.loads((runs[0] / "seeds.json").read_text())
    assert set(summary["seeds"]) == {"3", "4"}
    kept = runs[0] / ("average" if summary["kept"] == "average" else f"seed-{summary['kept']}")
    after = [result["dev"]["wer"]["after"] for result in summary["seeds"].values()]
    assert json.loads((runs[0] / "results.json").read_text())["dev"]["wer"]["after"] <= min(after)
    assert hashes(runs[0] / "model") == hashes(kept / "model") == hashes(runs[1] / "model")
    assert hashes(runs[0] / "seed-3" / "model") != hashes(runs[0] / "seed-4" / "model")


def test_seeds_are_averaged(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Dev is scored fold by fold with the average; the result is the mean of the models that both seeds would give."""
    options = [
        "--model",
        "toy",
        "--seeds",
        "2",
        "--folds",
        "3",
        "--half_epoch_validation.half",
        "false",
        "--selection.alphas=[]",
    ]
    run_dir = tmp_path / "run"
    assert main(["specialize", str(tones), *options, "--run_dir", str(run_dir)]) == 0
    assert json.loads((run_dir / "seeds.json").read_text())["kept"] == "average"
    results = json.loads((run_dir / "results.json").read_text())
    assert results["chosen"] == "average of 2 seeds" and results["alpha"] == 1
    assert "kept: the average of 2 seeds" in capsys.readouterr().out
    weights = [torch.load(run_dir / f"seed-{seed}" / "model" / "toy.pt", weights_only=True) for seed in (0, 1)]
    mean = torch.load(run_dir / "model" / "toy.pt", weights_only=True)
    assert all(
        torch.allclose(tensor, (weights[0][name] + weights[1][name]) / 2, atol=1e-6)
        for name, tensor in mean.items()
        if tensor.is_floating_point()
    )


@pytest.mark.once
def test_same_seed_same_weights(tmp_path: Path) -> None:
    """With masks, augmentation and replay, the stored weights of two runs with one seed are the same bytes."""
    folder = tmp_path / "clips"
    shutil.copytree(CLIPS, folder, ignore=lambda _, names: [n for n in names if n[:1] in "12" or n.endswith("csv")])
    model = str(tiny_whisper(tmp_path / "tiny", multilingual=False))
    more = ["--canary", "off", "--data.augmentation.speeds=[0.9,1.1]", "--trainer.max_epochs=1", "--data.batch_size=8"]
    more += ["--data.augmentation.trail_silence_seconds=0.5", "--data.replay=bundled"]
    more += ["--model.adapter.init_args.spec_augment={num_time_masks: 2, num_freq_masks: 2}", "--folds=2"]
    for name in ("once", "again"):
        assert main(["specialize", str(folder), "--model", model, "--run_dir", str(tmp_path / name), *more]) == 0
    once, again = (hashes(tmp_path / name / "checkpoints" / "folds") for name in ("once", "again"))
    assert once == again and len(once) == 2


@pytest.mark.once
def test_merged_lora_is_chosen_among_plain_weights(tmp_path: Path) -> None:
    """Networks with and without low-rank matrices cannot be interpolated, but merged ones can."""
    folder = tmp_path / "clips"
    shutil.copytree(CLIPS, folder, ignore=lambda _, names: [n for n in names if n[:1] in "12" or n.endswith("csv")])
    model = tiny_whisper(tmp_path / "tiny", multilingual=False)
    more = ["--canary=off", "--trainer.max_epochs=1", "--model.adapter.init_args.lora.rank=2", "--folds=off"]
    assert main(["specialize", str(folder), "--model", str(model), "--run_dir", str(tmp_path / "run"), *more]) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [candidate["alpha"] for candidate in report["candidates"]] == [0, 1, 1, 1, 0.9, 0.75, 0.6, 0.5, 0.25]
    plain, saved = (load_file(f / "model.safetensors") for f in (model, tmp_path / "run" / "model"))
    assert plain.keys() == saved.keys()


def test_a_budget_ends_a_run(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The 200 epochs of the toy take far longer than the budget."""
    options = ["--model", "toy", "--budget", "1s", "--run_dir", str(tmp_path / "run")]
    assert main(["specialize", str(tones), *options, "--trainer.max_epochs", "200"]) == 0
    assert "budget 1 s: 1 of 200 epochs" in capsys.readouterr().err
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), (" 2 m ", 120)])
def test_budget_is_a_time(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["5", "m", "0s", "-1m", "5 minutes"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--budget is a time such as"):
        seconds_of(text)


def test_wrong_options_are_refused(tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """They are refused before anything is trained, with a remedy."""
    fit = ["specialize", str(tones), "--model", "toy", "--run_dir", str(tmp_path / "run")]
    for more, message in (
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--canary", str(tmp_path / "nowhere")], "there is no such audio folder"),
        (["--budget", "soon"], "--budget is a time such as"),
        (["--selection.alphas", "[2.0]"], "selection.alphas"),
    ):
        try:
            status = main([*fit, *more])
        except SystemExit as error:
            status = error.code
        assert status == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.once
def test_a_poisoned_data_set_keeps_the_base(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """If every transcript belongs to another clip, the real tiny.en keeps its untouched weights, at alpha 0."""
    folder = tmp_path / "poisoned"
    folder.mkdir()
    for split, count in (("train", 24), ("dev", 12), ("test", 6)):
        with (CLIPS / f"{split}_files.csv").open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))[:count]
        texts = [row["text"] for row in rows]
        random.Random(0).shuffle(texts)
        with (folder / f"{split}_files.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["uid", "file_name", "text"])
            for row, text in zip(rows, texts, strict=True):
                writer.writerow([row["uid"], row["file_name"], text])
                shutil.copy(CLIPS / row["file_name"], folder)
                (folder / f"{row['uid']}.txt").write_text(text)
    run_dir = tmp_path / "run"
    options = ["--model", "whisper-tiny.en", "--run_dir", str(run_dir), "--canary", "off", "--trainer.max_epochs=1"]
    options += ["--folds", "off"]  # tests/integration/test_folds.py has poisoned folds
    assert main(["specialize", str(folder), *options]) == 0
    report = json.loads((run_dir / "report.json").read_text())
    assert report["kept_base"]
    assert report["verdict"]["word"] in ("no clear change", "worse")
    assert next(candidate for candidate in report["candidates"] if candidate["chosen"])["alpha"] == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1].startswith("The untouched model was kept: ")
    from asr_lightning.adapters import saved
    from asr_lightning.adapters.whisper import WhisperAdapter

    kept, base = saved.load(run_dir / "model"), WhisperAdapter("openai/whisper-tiny.en")
    weights = base.model.state_dict()
    assert all((tensor == weights[name]).all() for name, tensor in kept.model.state_dict().items())
    assert kept.options.context == "window", "the untouched model is handed over as its makers use it"
