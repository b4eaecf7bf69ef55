"""A run gives the same plan and the same weights to the last bit, whichever way it is started."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import jiwer
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

import asr_lightning as asr
from asr_lightning.__main__ import main
from asr_lightning.adapters.toy import ToyAdapter
from asr_lightning.data import audio
from asr_lightning.scoring import edits
from tests.server.trainer.jobs import make_job, train

EPOCHS = 3


def hash_of(model_dir: Path) -> str:
    return hashlib.sha256((model_dir / "toy.pt").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def outcome(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> asr.Outcome:
    run_dir = tmp_path_factory.mktemp("entries") / "python"
    return asr.specialize(tones_once, "toy", run_dir=run_dir, epochs=EPOCHS, accelerator="cpu")


def test_an_outcome_is_what_the_files_say(outcome: asr.Outcome, tones_once: Path) -> None:
    report, results = (json.loads((outcome.run_dir / name).read_text()) for name in ("report.json", "results.json"))
    assert results == outcome.as_results()
    assert outcome.test.wer == (report["test"]["before"]["wer"], report["test"]["after"]["wer"])
    assert outcome.verdict == report["verdict"]["sentence"] and outcome.report.is_file()
    assert outcome.dev.wer.after <= outcome.dev.wer.before
    assert outcome.table in outcome.summary and outcome.summary.endswith(outcome.verdict)
    assert asr.load(outcome.model_dir).transcribe(tones_once / "001.wav").seconds > 0


def test_specialize_and_fit_give_the_same_weights(outcome: asr.Outcome, tones_once: Path, tmp_path: Path) -> None:
    options = ["--trainer.max_epochs", str(EPOCHS), "--trainer.accelerator", "cpu"]
    assert main(["specialize", str(tones_once), "--model", "toy", "--run_dir", str(tmp_path / "one"), *options]) == 0
    paths = ["--data.audio_dir", str(tones_once), "--run_dir", str(tmp_path / "two")]
    assert main(["fit", "--model", "toy", *paths, *options]) == 0
    configs = []
    for run_dir in (outcome.run_dir, tmp_path / "one", tmp_path / "two"):
        assert hash_of(run_dir / "model") == hash_of(outcome.model_dir)
        config = yaml.safe_load((run_dir / "config.yaml").read_text())
        configs.append({name: value for name, value in config.items() if name not in ("run_dir", "data", "trainer")})
    assert configs[0] == configs[1] == configs[2]


def test_a_job_gives_the_same_weights(outcome: asr.Outcome, tones_once: Path, tmp_path: Path) -> None:
    job = make_job(tmp_path / "job", tones_once, epochs=EPOCHS)
    assert train(job) == 0, (job / "trainer.log").read_text()
    assert hash_of(job / "run" / "model") == hash_of(outcome.model_dir)
    ended = json.loads((job / "exit.json").read_text())
    assert ended["metrics"] == json.loads(json.dumps(outcome.as_metrics()))


def test_a_wrong_option_is_refused_before_anything_is_written(tones_once: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    for options, message in [({"trainer": {"epochs": 3}}, "epochs"), ({"data": {"batch_size": "many"}}, "batch_size")]:
        with pytest.raises(ValueError, match=message):
            asr.specialize(tones_once, "toy", run_dir=run_dir, options=options)
    with pytest.raises(ValueError, match="language"):
        asr.specialize(tones_once, "toy", run_dir=run_dir, language="de")
    with pytest.raises(ValueError, match="did you mean moonshine-tiny"):
        asr.specialize(tones_once, "moonshine-tini", run_dir=run_dir)
    for options, message in [({"epochs": 0}, "epochs must be at least 1"), ({"seed": -1}, "must not be negative")]:
        with pytest.raises(asr.errors.OptionError, match=message):
            asr.specialize(tones_once, "toy", run_dir=run_dir, **options)
    for options, message in [
        ({"config": "my.yaml"}, "options holds options, not files"),
        ({"trainer": {"callbacks": [Callback()]}}, "options.trainer.callbacks holds a Callback"),
        ({"model": {"adapter": asr.adapters.ToyAdapter()}}, "options.model.adapter holds a ToyAdapter"),
    ]:
        with pytest.raises(asr.errors.OptionError, match=message):
            asr.specialize(tones_once, "toy", run_dir=run_dir, options=options)
    assert not run_dir.exists()


def test_a_run_that_cannot_start_leaves_an_earlier_one_in_place(
    outcome: asr.Outcome, tones_once: Path, tmp_path: Path
) -> None:
    run_dir = Path(shutil.copytree(outcome.run_dir, tmp_path / "run"))
    with pytest.raises(ValueError, match="gpuu"):
        asr.specialize(tones_once, "toy", run_dir=run_dir, accelerator="gpuu")
    with pytest.raises(asr.errors.ModelError, match="is no model folder"):
        asr.specialize(tones_once, str(tmp_path), run_dir=run_dir)
    with pytest.raises(asr.errors.DataError, match="no such audio folder"):
        asr.specialize(tmp_path / "typo", "toy", run_dir=run_dir)
    if not torch.cuda.is_available():
        with pytest.raises(asr.errors.OptionError, match="set --trainer.accelerator auto"):
            asr.specialize(tones_once, "toy", run_dir=run_dir, accelerator="cuda")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_callbacks_of_the_caller_see_the_training(tones_once: Path, tmp_path: Path) -> None:
    class Steps(Callback):
        count = 0

        def on_train_batch_end(self, *_: object) -> None:
            self.count += 1

    steps = Steps()
    spec = asr.RunSpec(tones_once, tmp_path / "run", "toy", epochs=2, accelerator="cpu")
    outcome = asr.run_spec(spec, steps)
    assert steps.count > 2 and outcome.model_dir.is_dir()
    assert {"RunSpec", "load", "specialize"} <= set(dir(asr)) and "TrainOnly" in dir(asr.callbacks)
    with pytest.raises(asr.errors.OptionError, match="give instances of Lightning's Callback"):
        asr.specialize(tones_once, "toy", callbacks=[Steps])


def test_a_run_folder_that_holds_more_than_runs_is_refused(
    outcome: asr.Outcome, tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run would rename it, with the recordings in it."""
    monkeypatch.chdir(tmp_path)
    for run_dir in (tones, tones.parent, "."):
        for _ in range(2):
            with pytest.raises(asr.errors.OptionError, match="holds the .*: name another .* runs/tones"):
                asr.specialize(tones, "toy", run_dir=run_dir, epochs=1)
    run_dir = Path(shutil.copytree(outcome.run_dir, tmp_path / "run"))
    with pytest.raises(asr.errors.OptionError, match="holds the model to start from"):
        asr.specialize(tones, str(run_dir / "model"), run_dir=run_dir, epochs=1)
    assert main(["specialize", str(tones), "--model", "toy", "--seeds", "2", "--run_dir", str(tones)]) == 2
    assert (tones / "001.wav").is_file() and (run_dir / "model").is_dir()


@pytest.mark.parametrize("option", ["--config", "-c"])
def test_a_file_overrides_nothing_that_was_typed(
    option: str, outcome: asr.Outcome, tones_once: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = [option, str(outcome.run_dir / "config.yaml")]
    typed = ["specialize", str(tones_once), "--model", "toy", "--run_dir", str(tmp_path / "run"), "--seed", "5"]
    with pytest.raises(SystemExit) as ended:
        main([*typed, *config, "--trainer.max_epochs=1", "--print_config"])
    assert ended.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["run_dir"], printed["seed_everything"]) == (str(tmp_path / "run"), 5)
    assert printed["trainer"]["max_epochs"] == 1 and printed["data"]["audio_dir"] == str(tones_once)
    assert printed["trainer"]["accelerator"] == "cpu", "what nobody has typed comes from the file"
    assert not (tmp_path / "run").exists()


def test_an_earlier_run_is_set_aside(outcome: asr.Outcome, tones_once: Path, tmp_path: Path) -> None:
    run_dir = Path(shutil.copytree(outcome.run_dir, tmp_path / "run"))
    asr.specialize(tones_once, "toy", run_dir=run_dir, epochs=1)
    assert hash_of(tmp_path / "run-2" / "model") == hash_of(outcome.model_dir)


def test_a_script_of_four_lines(tones_once: Path, tmp_path: Path) -> None:
    """The script of the page runs in a fresh interpreter."""
    code = f"""
import asr_lightning as asr
outcome = asr.specialize({str(tones_once)!r}, model="toy", run_dir="here", epochs=2)
print("WER", outcome.test.wer.before, outcome.test.wer.after, outcome.verdict_word)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("WER 1.0 ")
    assert (tmp_path / "here" / "report.html").is_file()


def test_a_pair_of_texts_is_aligned_once(tones_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation, selection, test and report together align each pair once, and decode each recording once.

    The page decodes the recordings of the test split again, at another sample rate, for its players.
    """
    words, recordings = Counter[tuple[str, ...]](), Counter[str]()
    process, inspect = jiwer.process_words, audio.inspect
    edits.aligned_words.cache_clear()

    def count(reference: list[str], hypothesis: list[str]) -> jiwer.WordOutput:
        words[*reference, *hypothesis] += 1
        return process(reference, hypothesis)

    def decoded(path: Path, sample_rate: int) -> audio.Inspected:
        recordings[f"{path.name} at {sample_rate} Hz"] += 1
        return inspect(path, sample_rate)

    made: list[str] = []
    init = ToyAdapter.__init__

    def make(self: ToyAdapter, source: str = "toy", **options: object) -> None:
        made.append(source)
        init(self, source, **options)

    monkeypatch.setattr(edits.jiwer, "process_words", count)
    monkeypatch.setattr(audio, "inspect", decoded)
    monkeypatch.setattr(ToyAdapter, "__init__", make)
    asr.specialize(tones_once, "toy", run_dir=tmp_path / "run", epochs=2)
    assert len(words) > 5 and set(words.values()) == {1}
    assert len(recordings) == 12 + 1 and set(recordings.values()) == {1}
    assert len(made) == 4, "the model to train, the untouched one, the candidates, and the one that is handed over"
