"""Trains on a few clips as a user does: folds, their average, and their report, with a toy that really learns."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from make_tones import PHRASES, write_tones
from safetensors.torch import load_file

from asr_lightning.__main__ import main
from asr_lightning.adapters import saved
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.callbacks.keep_best import average
from asr_lightning.cli import lightning_cli
from asr_lightning.data.folds import fold_splits
from asr_lightning.datamodules.audio_folder import AudioFolderDataModule
from asr_lightning.run.spec import RunSpec
from asr_lightning.scoring.evaluation import evaluate
from tests.server.trainer.jobs import make_job
from tests.toy_run import toy_data

FIT = ["fit", "--config", "configs/models/toy.yaml", "--half_epoch_validation.half=false"]


def arguments(folder: Path, run_dir: Path, *more: str) -> list[str]:
    return [*FIT, f"--data.audio_dir={folder}", f"--run_dir={run_dir}", "--folds=auto", *more]


@pytest.fixture(scope="module")
def ran(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> lightning_cli.ASRCLI:
    """A finished run on eleven clips of train and dev, in four folds."""
    run_dir = tmp_path_factory.mktemp("folds") / "run"
    return lightning_cli.main(arguments(tones_once, run_dir))


@pytest.fixture(scope="module")
def folds(ran: lightning_cli.ASRCLI, tones_once: Path) -> list[AudioFolderDataModule]:
    """The data of the four folds, made again."""
    data = toy_data(tones_once, batch_size=4)
    return [data.divided(splits) for splits in fold_splits(data.splits, 4)]


def models(ran: lightning_cli.ASRCLI) -> Iterator[ToyAdapter]:
    for number in range(1, 5):
        adapter = ToyAdapter()
        state = load_file(ran.run_dir / "checkpoints" / "folds" / f"fold-{number}-of-4.safetensors")
        adapter.model.load_state_dict(state)
        yield adapter


def test_dev_is_what_each_model_reads_of_its_own_fold(
    ran: lightning_cli.ASRCLI, folds: list[AudioFolderDataModule]
) -> None:
    pairs = zip(models(ran), folds, strict=True)
    expected = [text for adapter, data in pairs for text in evaluate(adapter, data.loader("dev")).transcripts]
    candidate = next(c for c in ran.runner.choice.selection.candidates if c.alpha == 1)
    assert list(candidate.dev.transcripts) == expected
    assert len({text.uid for text in expected}) == len(PHRASES) - 1
    assert candidate.name == "average of 4 folds"


def test_what_is_handed_over_is_their_mean(ran: lightning_cli.ASRCLI) -> None:
    chosen, base = ran.runner.choice.chosen, ToyAdapter().model.state_dict()
    assert 0 < chosen.alpha <= 1
    mean = average([adapter.model.state_dict() for adapter in models(ran)])
    for name, tensor in saved.load(ran.run_dir / "model").model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, torch.lerp(base[name], mean[name], chosen.alpha))


def test_it_is_better_and_says_how_dev_was_read(ran: lightning_cli.ASRCLI) -> None:
    results = json.loads((ran.run_dir / "results.json").read_text())
    assert results["dev"]["wer"]["after"] < results["dev"]["wer"]["before"]
    assert results["test"]["wer"]["after"] < results["test"]["wer"]["before"]
    assert results["clips"] == {"train": 11, "dev": 11, "test": 1}
    assert results["decision"].endswith("dev is out of fold: each clip was read by a model that was not trained on it.")
    report = json.loads((ran.run_dir / "report.json").read_text())
    assert report["decision"] == results["decision"]
    assert {c["name"] for c in report["candidates"]} == {"untouched model", "average of 4 folds"}
    assert [p.name for p in ran.run_dir.glob("config*")] == ["config.yaml"]
    assert (ran.run_dir / "tensorboard" / "fold-4").is_dir()
    assert not list(ran.run_dir.rglob("*.ckpt")) and not (ran.run_dir / "checkpoints" / "best").exists()


def test_the_same_seed_gives_the_same_model(ran: lightning_cli.ASRCLI, tones_once: Path, tmp_path: Path) -> None:
    again = lightning_cli.main(arguments(tones_once, tmp_path / "again"))
    weights = [torch.load(run.run_dir / "model" / "toy.pt", weights_only=True) for run in (ran, again)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_poisoned_clips_keep_the_untouched_model(ran: lightning_cli.ASRCLI, tmp_path: Path) -> None:
    """With transcripts of other clips and a model that is already good, nothing is gained out of fold."""
    folder = tmp_path / "poisoned"
    write_tones(folder)
    texts = list(PHRASES)
    random.Random(0).shuffle(texts)
    for number, text in enumerate(texts, start=1):
        (folder / f"{number:03d}.txt").write_text(text)
    source = ran.run_dir / "model"
    run = lightning_cli.main(
        arguments(folder, tmp_path / "run", f"--model.adapter.init_args.source={source}", "--trainer.max_epochs=3")
    )
    outcome = run.runner.outcome
    assert outcome is not None and outcome.alpha == run.runner.choice.chosen.alpha == 0
    assert outcome.decision.startswith("The untouched model was kept: average of 4 folds at alpha")
    kept, base = (torch.load(path / "toy.pt", weights_only=True) for path in (run.model_dir, source))
    assert all(torch.equal(tensor, base[name]) for name, tensor in kept.items())


def test_few_repeated_clips_get_more_steps(tones_once: Path, tmp_path: Path) -> None:
    more = ["--data.epoch_clips=16", "--trainer.max_epochs=2", "--data.augmentation.speeds=[0.9,1.0,1.1]"]
    run = lightning_cli.main(arguments(tones_once, tmp_path / "run", *more))
    assert run.runner.trainer.global_step == 2 * 4
    assert run.runner.progress.num_utterances == 4 * 2 * 16


def test_a_killed_run_goes_on_with_the_next_fold(ran: lightning_cli.ASRCLI, tones_once: Path, tmp_path: Path) -> None:
    """After a kill in the third fold, the first two are not trained again, and the result is the same."""
    run_dir = Path(shutil.copytree(ran.run_dir, tmp_path / "run"))
    folder = run_dir / "checkpoints" / "folds"
    for number in (3, 4):
        (folder / f"fold-{number}-of-4.safetensors").unlink()
    (folder / "fold-3-of-4.half").touch()
    kept = [(folder / f"fold-{number}-of-4.safetensors").stat().st_mtime_ns for number in (1, 2)]
    again = lightning_cli.main(arguments(tones_once, run_dir, "--ckpt_path=last"))
    assert [(folder / f"fold-{number}-of-4.safetensors").stat().st_mtime_ns for number in (1, 2)] == kept
    weights = [torch.load(run.run_dir / "model" / "toy.pt", weights_only=True) for run in (ran, again)]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    assert again.runner.outcome is not None and ran.runner.outcome is not None
    assert again.runner.outcome.dev == ran.runner.outcome.dev


def test_folds_of_other_clips_are_trained_again(ran: lightning_cli.ASRCLI, tones_once: Path, tmp_path: Path) -> None:
    """Between two starts clips may come or go; a model must never be tested with clips that it has heard."""
    run_dir = Path(shutil.copytree(ran.run_dir, tmp_path / "run"))
    folder = Path(shutil.copytree(tones_once, tmp_path / "tones"))
    train = folder / "train_files.csv"
    train.write_text("".join(train.read_text().splitlines(keepends=True)[:-1]))
    kept = {path.name: path.read_bytes() for path in (run_dir / "checkpoints" / "folds").iterdir()}
    resumed = lightning_cli.main(arguments(folder, run_dir, "--ckpt_path=last"))
    fresh = lightning_cli.main(arguments(folder, tmp_path / "fresh"))
    for name, content in kept.items():
        again = (run_dir / "checkpoints" / "folds" / name).read_bytes()
        assert again != content and again == (fresh.run_dir / "checkpoints" / "folds" / name).read_bytes()
    assert resumed.runner.outcome is not None and fresh.runner.outcome is not None
    assert resumed.runner.outcome.dev == fresh.runner.outcome.dev


def test_one_model_does_not_go_on_with_folds(
    ran: lightning_cli.ASRCLI, tones_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """It began from nothing each time, and left its own checkpoints unread."""
    run_dir = Path(shutil.copytree(ran.run_dir, tmp_path / "run"))
    more = ("--folds=off", "--ckpt_path=last", "--trainer.max_epochs=1")
    assert main(arguments(tones_once, run_dir, *more)) == 2
    assert "start the run again without --ckpt_path" in capsys.readouterr().err


def test_a_run_killed_in_its_first_fold_starts_anew(
    tones_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """An error says that there is nothing to resume; a new start removes what the first left behind."""
    run_dir = tmp_path / "run"
    stale = run_dir / "checkpoints" / "folds" / "fold-1-of-4.half"
    stale.parent.mkdir(parents=True)
    stale.touch()
    assert main(arguments(tones_once, run_dir, "--ckpt_path=last")) == 2
    assert "start the run again without --ckpt_path" in capsys.readouterr().err
    assert main(arguments(tones_once, run_dir, "--trainer.max_epochs=1")) == 0
    assert sorted(path.name for path in stale.parent.iterdir()) == [f"fold-{n}-of-4.safetensors" for n in range(1, 5)]


def test_a_budget_is_divided(tones_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(arguments(tones_once, tmp_path / "run", "--budget=1s", "--trainer.max_epochs=200")) == 0
    assert capsys.readouterr().err.count("budget 1 s: 1 of 200 epochs") == 4


def test_folds_are_refused_where_they_cannot_be_had(
    tones_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    several = ["--trainer.devices=2", "--trainer.strategy=ddp_spawn", "--folds=4"]
    assert main(arguments(tones_once, tmp_path / "run", *several)) == 2
    assert "set --folds off" in capsys.readouterr().err
    assert main(arguments(tones_once, tmp_path / "other", "--folds=40")) == 2
    assert "there are 11: record more phrases, or set --folds off" in capsys.readouterr().err


def test_a_job_counts_all_folds(tones_once: Path, tmp_path: Path) -> None:
    """The progress that the server shows goes from 0 to 1 once, and its baseline is that of every clip."""
    from asr_lightning.callbacks.job_status import JobStatus
    from asr_lightning.job_folder.status import TrainerStatus

    status, seen = TrainerStatus(make_job(tmp_path / "job", tones_once), 1, 2), []
    status.update = lambda **changes: (seen.append(changes), TrainerStatus.update(status, **changes))  # type: ignore[method-assign]
    options = {"folds": "auto", "half_epoch_validation": {"half": False}}
    spec = RunSpec(tones_once, tmp_path / "run", "toy", epochs=2, options=options)
    lightning_cli.run(spec, callbacks=[JobStatus(status)], log_clips=False)
    fractions = [changes["fraction"] for changes in seen if "fraction" in changes]
    assert fractions == sorted(fractions) and fractions[-1] == 0.85
    assert status.progress.step == status.progress.steps
    phases = [changes["phase"] for changes in seen if "phase" in changes]
    assert phases == ["preparing", *["running"] * 8, "evaluating"]
    assert "fold 4 of 4" in next(c["message"] for c in reversed(seen) if c.get("phase") == "running")
    assert len({changes["base_wer"] for changes in seen if "base_wer" in changes}) == 1


@pytest.fixture(scope="module")
def unsplit(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same clips in a folder that has no split yet."""
    folder = tmp_path_factory.mktemp("unsplit") / "tones"
    return Path(shutil.copytree(tones_once, folder, ignore=shutil.ignore_patterns("*.csv")))


@pytest.fixture(scope="module")
def tested(unsplit: Path, tmp_path_factory: pytest.TempPathFactory) -> lightning_cli.ASRCLI:
    """A finished run without a test split."""
    return lightning_cli.main(arguments(unsplit, tmp_path_factory.mktemp("tested") / "run"))


def test_few_clips_are_each_tested_by_a_model_that_was_not_trained_on_them(
    tested: lightning_cli.ASRCLI, unsplit: Path
) -> None:
    run_dir, outcome = tested.run_dir, tested.runner.outcome
    assert outcome is not None and outcome.is_out_of_fold and outcome.alpha > 0
    clips = fold_splits(tested.runner.data.splits | {"dev": ()}, 4)
    data = toy_data(unsplit, batch_size=4)
    expected = {
        text.uid: text.hypothesis
        for adapter, splits in zip(part_models(tested), clips, strict=True)
        for text in evaluate(adapter, data.divided(splits).loader("dev")).transcripts
    }
    with (run_dir / "test_transcripts.csv").open(encoding="utf-8") as file:
        assert {row["uid"]: row["after"] for row in csv.DictReader(file)} == expected
    assert len(expected) == len(PHRASES)
    assert not list(unsplit.glob("*.csv")), "the next run decides the same"


def part_models(run: lightning_cli.ASRCLI) -> Iterator[ToyAdapter]:
    for state in run.runner.choice.selection.parts:
        adapter = ToyAdapter()
        adapter.model.load_state_dict(state)
        yield adapter


def test_such_figures_are_named_in_table_and_report(tested: lightning_cli.ASRCLI) -> None:
    outcome = tested.runner.outcome
    assert outcome is not None
    table = outcome.table.splitlines()
    assert [row[:22].rstrip() for row in table[1:]] == ["out of fold (12 clips)", "out of fold, native"]
    results = json.loads((tested.run_dir / "results.json").read_text())
    assert results["out_of_fold"] is True and results["clips"] == {"train": 12, "dev": 12, "test": 0}
    assert results["test"] == results["dev"]
    assert (
        "on 12 clips, each read by a model that was not trained on it, the word error rate fell" in results["verdict"]
    )
    assert results["verdict"].startswith("Better: ")
    pages = [(tested.run_dir / name).read_text() for name in ("report.md", "report.html")]
    for page in pages:
        assert "Out of fold: 12 clips" in page and "Every clip, out of fold" in page
        assert "flatters the figures a little" in page
        assert "Nothing was trained or chosen on" not in page and "never heard" not in page
    assert pages[1].count("<audio ") == 12


@pytest.mark.parametrize("command", ["test", "validate"])
def test_nothing_is_left_to_score_afterwards(
    tested: lightning_cli.ASRCLI, unsplit: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, f"--run_dir={tested.run_dir}"]) == 2
    assert "has no clips that its model was not trained on" in capsys.readouterr().err
    assert not list(unsplit.glob("*.csv"))


def test_a_split_is_pooled_where_that_is_asked_for(
    tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Following the advice for a test split of one text gives a verdict, and changes no file of the user."""
    before = {path.name: path.read_bytes() for path in tones.iterdir()}
    assert main(arguments(tones, tmp_path / "run", "--trainer.max_epochs=1")) == 0
    said = capsys.readouterr().err
    assert said.index("test has one text") < said.index("epoch 1.0 of 1")
    assert "add --test_on folds, so that every clip is tested by a model that was not trained on it" in said
    assert main(arguments(tones, tmp_path / "run", "--test_on", "folds", "--trainer.max_epochs=8")) == 0
    assert "test has" not in capsys.readouterr().err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["out_of_fold"] and results["clips"]["train"] == 12
    assert {path.name: path.read_bytes() for path in tones.iterdir()} == before
