"""Runs the commands as a user does, one after the other on one small run, and with wrong options."""

from __future__ import annotations

import csv
import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from asr_lightning.__main__ import main

ROOT = Path(__file__).parents[2]


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-m", "asr_lightning", *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.fixture(scope="module")
def run_dir(tones_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished toy run, W&B offline included."""
    run_dir = tmp_path_factory.mktemp("commands") / "run"
    paths = ["--data.audio_dir", tones_once, "--run_dir", run_dir, "--wandb", "offline"]
    result = command("fit", "--config", "configs/models/toy.yaml", *paths)
    assert result.returncode == 0, result.stderr
    (run_dir / "stdout.txt").write_text(result.stdout)
    (run_dir / "stderr.txt").write_text(result.stderr)
    return run_dir


def test_fit_reports_before_and_after(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    assert set(results) >= {
        "model", "source", "clips", "dev", "test", "native_mode", "train_seconds", "train_utterances_per_second",
        "validation_seconds", "total_seconds", "peak_memory_mb", "saved",
    }  # fmt: skip
    assert results["clips"] == {"train": 9, "dev": 2, "test": 1}
    assert results["dev"]["wer"]["after"] < results["dev"]["wer"]["before"]
    assert set(results["dev"]["cer"]) == {"before", "after"}
    assert set(results["native_mode"]["test"]["wer"]) == {"before", "after"}
    assert (run_dir / results["saved"] / "toy.pt").is_file()
    assert 0 < results["train_seconds"] < results["total_seconds"]
    printed = (run_dir / "stdout.txt").read_text()
    assert f"{results['dev']['wer']['after']:.1%}" in printed
    assert str(run_dir / "model") in printed


def test_progress_lines_tell_the_time_left(run_dir: Path) -> None:
    lines = [line for line in (run_dir / "stderr.txt").read_text().splitlines() if line.startswith("epoch ")]
    assert lines and all("dev WER" in line and "left" in line for line in lines)


def test_test_transcripts_show_both(run_dir: Path) -> None:
    rows = list(csv.DictReader((run_dir / "test_transcripts.csv").read_text().splitlines()))
    assert len(rows) == 1
    assert set(rows[0]) == {"uid", "reference", "before", "after"}


def test_tensorboard_holds_curves_sound_and_text(run_dir: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    tags = events.Tags()
    assert {"train/loss", "dev/wer", "dev/cer", "dev/mean_wer", "dev/loss"} <= set(tags["scalars"])
    assert events.Scalars("dev/wer")[0].step == 0, "row one is the untouched model"
    results = json.loads((run_dir / "results.json").read_text())
    assert events.Scalars("dev/wer")[0].value == pytest.approx(results["dev"]["wer"]["before"])
    assert len(tags["audio"]) == 2
    assert any("text_summary" in tag for tag in tags["tensors"])
    assert len(events.Scalars("train/loss")) >= 25, "every step of a short run is logged"


def test_wandb_works_offline(run_dir: Path) -> None:
    assert list(run_dir.glob("wandb/offline-run-*/*.wandb"))


def test_test_command_repeats_the_figures(run_dir: Path) -> None:
    result = command("test", "--run_dir", run_dir)
    assert result.returncode == 0, result.stderr
    once, again = (json.loads((run_dir / name).read_text()) for name in ("results.json", "test.json"))
    assert again["test"] == once["test"]
    assert again["native_mode"] == once["native_mode"]
    assert f"{once['test']['wer']['after']:.1%}" in result.stdout


@pytest.mark.parametrize("processes", [1, 2])
def test_validate_command_scores_the_saved_model(run_dir: Path, processes: int) -> None:
    more = ["--trainer.devices=2", "--trainer.strategy=ddp"] if processes == 2 else []
    result = command("validate", "--run_dir", run_dir, *more)
    assert result.returncode == 0, result.stderr
    wer = json.loads((run_dir / "results.json").read_text())["dev"]["wer"]["after"]
    row = next(line for line in result.stdout.splitlines() if "dev/wer" in line)
    assert float(row.split("│")[2]) == pytest.approx(wer)


def test_texts_that_cannot_be_written_are_printed(
    run_dir: Path, tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk may become full while texts are made that took hours."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        status = main(["predict", str(tones), "--model", str(run_dir / "model"), "--output", str(tmp_path / "a.csv")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    printed = capsys.readouterr()
    assert status == 2 and len(printed.out.splitlines()) == 12
    assert "a.csv cannot be written, so the texts are printed" in printed.err and "the disk is full (" in printed.err
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".txt"])
def test_predict_writes_every_format(run_dir: Path, tones: Path, tmp_path: Path, suffix: str) -> None:
    output = tmp_path / f"texts{suffix}"
    before = tree(tones)
    assert main(["predict", str(tones), "--model", str(run_dir / "model"), "--output", str(output)]) == 0
    assert tree(tones) == before
    lines = output.read_text().splitlines()
    if suffix == ".jsonl":
        rows = [json.loads(line) for line in lines]
    elif suffix == ".csv":
        rows = list(csv.DictReader(lines))
    else:
        rows = [dict(zip(("file", "text"), line.split("\t"), strict=True)) for line in lines]
    assert [Path(row["file"]).name for row in rows] == [f"{number:03d}.wav" for number in range(1, 13)]
    right = [(tones / Path(row["file"]).name).with_suffix(".txt").read_text().strip() == row["text"] for row in rows]
    assert sum(right) >= 8, "the phrases it was trained on are read right"


def test_predict_reads_the_rest_when_one_file_is_bad(
    run_dir: Path, tones: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tones / "bad.wav").write_bytes(b"no audio")
    assert main(["predict", str(tones), "--model", str(run_dir / "model")]) == 1
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 12
    assert "bad.wav" in printed.err


def test_transcribe_writes_every_format(run_dir: Path, tones: Path, tmp_path: Path) -> None:
    """A folder of outputs holds a file for each recording, at its place in the folder of recordings."""
    (tones / "more").mkdir()
    (tones / "012.wav").rename(tones / "more" / "012.wav")
    texts = {path.stem: path.read_text().strip() for path in tones.glob("*.txt")}
    arguments = ["transcribe", str(tones), "--model", str(run_dir)]
    for kind in ("txt", "jsonl", "csv", "srt", "vtt"):
        folder = tmp_path / "out" / kind
        assert main([*arguments, "--output_dir", str(folder), "--format", kind]) == 0
        assert len(list(folder.glob(f"*.{kind}"))) == 11 and (folder / "more" / f"012.{kind}").is_file()
    out = tmp_path / "out"
    lines = {stem: (out / "txt" / f"{stem}.txt").read_text() for stem in texts if stem != "012"}
    assert sum(text == f"{texts[stem]}\n" for stem, text in lines.items()) >= 8
    for stem, line in lines.items():
        content = json.loads((out / "jsonl" / f"{stem}.jsonl").read_text())
        text = line.strip()
        assert content["text"] == text and [part["text"] for part in content["segments"]] == [text]
        assert content["segments"][0]["end"] == content["seconds"] > 0
        rows = csv.DictReader((out / "csv" / f"{stem}.csv").read_text().splitlines())
        assert [row["text"] for row in rows] == [text]
        assert text in " ".join((out / "srt" / f"{stem}.srt").read_text().split())
        assert (out / "vtt" / f"{stem}.vtt").read_text().startswith("WEBVTT\n\n1\n00:00:00.000 --> ")


def test_transcribe_prints_a_line_for_each_recording(
    run_dir: Path, tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tones / "bad.wav").write_bytes(b"no audio")
    output = tmp_path / "all.jsonl"
    assert main(["transcribe", str(tones), "--model", str(run_dir), "--output", str(output)]) == 1
    assert "not transcribed: " in (err := capsys.readouterr().err) and "bad.wav" in err
    assert main(["transcribe", str(tones), "--model", str(run_dir / "model")]) == 1
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [[row["file"], row["text"]] for row in written] == printed and len(printed) == 12
    assert main(["transcribe", str(tones / "001.wav"), "--model", str(run_dir)]) == 0
    assert capsys.readouterr().out.strip() == written[0]["text"], "one recording needs no name"


def test_recordings_of_one_name_get_two_outputs(run_dir: Path, tones: Path, tmp_path: Path) -> None:
    import soundfile

    samples, rate = soundfile.read(tones / "001.wav")
    soundfile.write(tones / "001.flac", samples, rate)
    paths = [str(tones / "001.wav"), str(tones / "001.flac"), str(tones / "002.wav")]
    arguments = ["transcribe", *paths, "--model", str(run_dir), "--output_dir", str(tmp_path / "out")]
    assert main(arguments) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"001.wav.txt", "001.flac.txt", "002.txt"}
    before = tree(tmp_path / "out")
    assert main(arguments) == 2 and tree(tmp_path / "out") == before, "nothing is written over"


def test_texts_of_transcribe_that_cannot_be_written_are_printed(
    run_dir: Path, tones: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    try:
        status = main(["transcribe", str(tones), "--model", str(run_dir), "--output", str(tmp_path / "a.txt")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    printed = capsys.readouterr()
    assert status == 2 and len(printed.out.splitlines()) == 12
    assert "a.txt cannot be written, so the texts are printed" in printed.err
    assert not (tmp_path / "a.txt").exists()


def tree(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


BAD_OPTIONS = [
    (["fly"], "no command 'fly': choose one of specialize, fit"),
    (["predict", "nowhere", "--model", "MODEL"], "nowhere does not exist"),
    (["predict", "TONES", "--model", "TONES"], "is no model folder: it holds neither asr_lightning.json nor"),
    (["predict", "EMPTY", "--model", "MODEL"], "no audio file in"),
    (["predict", "TONES", "--model", "MODEL", "--output", "x.docx"], "must end in .jsonl, .csv or .txt"),
    (["predict", "TONES", "--model", "MODEL", "--output", "TONES/001.txt"], "exists; name another --output"),
    (["predict", "TONES", "--model", "MODEL", "--batch_size", "0"], "must be at least 1"),
    (["transcribe", "TONES", "--model", "MODEL", "--output", "x.docx"], "must end in .txt, .jsonl, .csv, .srt"),
    (
        ["transcribe", "TONES", "--model", "MODEL", "--output", "EMPTY/x.srt"],
        "srt holds one recording, and here are 12",
    ),
    (["transcribe", "TONES", "--model", "MODEL", "--output", "EMPTY/x.srt", "--format", "vtt"], "leave one out"),
    (["transcribe", "TONES", "--model", "MODEL", "--output", "TONES/001.txt"], "exists; name another --output"),
    (["transcribe", "TONES", "--model", "MODEL", "--output_dir", "TONES"], "001.txt exists; name another --output_dir"),
    (["transcribe", "-", "TONES", "--model", "MODEL"], "transcribe it in a command of its own"),
    (["transcribe", "-", "--model", "MODEL", "--output_dir", "EMPTY"], "give --output FILE in the place of"),
    (["transcribe", "EMPTY", "--model", "MODEL"], "no audio file in"),
    (["transcribe", "TONES", "--model", "MODEL", "--beam", "0"], "--beam must be at least 1"),
    (["transcribe", "TONES", "--model", "nowhere"], "no model 'nowhere'"),
    (["listen", "--model", "MODEL", "--fast"], "--fast is for --source FILE"),
    (["listen", "--model", "MODEL", "--source", "nowhere.wav"], "nowhere.wav does not exist"),
    (["listen", "--model", "MODEL", "--pause", "9"], "--pause must be 0.1 to 5 seconds"),
    (["listen", "--model", "MODEL", "--command", "nowhere -"], "there is no program nowhere here"),
    (["listen", "--model", "MODEL", "--command", "'a"], "--command 'a: No closing quotation"),
    (["listen", "--model", "MODEL", "--output", "EMPTY/a/b.txt"], "make it first (mkdir -p "),
    (["validate", "--run_dir", "EMPTY", "--config", "CONFIG", "--data.audio_dir", "TONES"], "holds no model: run fit"),
    (["fit", "--config", "CONFIG", "--data.audio_dir", "nowhere"], "nowhere"),
    (["fit", "--config", "CONFIG", "--data.audio_dir", "EMPTY"], "EMPTY"),
    (["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--train_only.groups", "[joint]"], "are encoder, head"),
    (
        ["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--model.optimizer.warmup", "50"],
        "fraction of the run",
    ),
    (["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--model.optimizer.lr", "0"], "above 0"),
    (
        ["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--data.batch_size", "0"],
        "batch_size must be at least 1",
    ),
    (["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--data.shares", "[1, 1, 1]"], "sum to 1"),
    (
        ["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--model.normalizer", "fancy"],
        "choose one of none, basic",
    ),
    (["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--ckpt_path", "last"], "nothing to resume"),
    (
        ["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--trainer.val_check_interval", "0.5"],
        "half_epoch_val",
    ),
    (["fit", "--config", "CONFIG"], "fit needs --data.audio_dir: python -m asr_lightning fit --help explains it"),
    (["fit", "--config", "no_such.yaml"], "--config: File does not exist: '"),
    (["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--data.replay", "nowhere"], "no such audio folder"),
    (["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--wandb", "no"], "one of 'off', 'offline', 'online'"),
    (["fit", "--config", "{data: {replay: 7}}", "--data.audio_dir", "TONES"], "and not 7: write it in quotation marks"),
    (
        ["fit", "--config", "CONFIG", "--data.audio_dir", "TONES", "--trainer.epochs", "3"],
        "fit has no option --trainer.epochs: did you mean --trainer.min_epochs, --trainer.max_epochs",
    ),
    (["predict", "TONES", "--model", "MODEL", "--output", "EMPTY/a/b.csv"], "make it first (mkdir -p "),
    (["specialize", "nowhere"], "nowhere: there is no such audio folder"),
    (["specialize", "TONES", "--model", "MODEL", "--trainer.epochs", "3"], "specialize has no option --trainer.epochs"),
    (["specialize", "TONES", "--model", "MODEL", "--selection.rate", "3"], "specialize has no option --selection.rate"),
    (
        ["specialize", "--trainer.max_epochs", "many", "TONES", "--model", "MODEL"],
        "--trainer.max_epochs takes a whole number, and not many",
    ),
    (["specialize", "TONES", "--model", "MODEL", "--trainer.max_epochs"], "--trainer.max_epochs needs a value"),
    (["specialize", "TONES", "--model", "MODEL", "4"], "specialize does not take '4': an option stands before"),
    (["validate"], "validate needs the folder of a finished run: python -m asr_lightning validate --run_dir runs/demo"),
    (["validate", "--run_dir"], "validate needs the folder of a finished run"),
    (["validate", "EMPTY/nowhere"], "EMPTY/nowhere does not exist: check the path"),
    (["test", "--run_dir", "EMPTY/nowhere"], "EMPTY/nowhere does not exist: check the path"),
    (["test", "--run_dir", "CONFIG"], "toy.yaml is a file: check the path"),
    (["validate", "--run_dir", "EMPTY"], "EMPTY is no finished run, since it holds no config.yaml"),
    (["validate", "MODEL"], "is the model of a run: name the run, python -m asr_lightning validate --run_dir"),
    (["validate", "SEEDS"], "SEEDS holds several seeds: name one of them, as in python -m asr_lightning validate "),
]


@pytest.mark.parametrize(
    ("arguments", "message"), BAD_OPTIONS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_bad_option_gets_a_clear_error(
    arguments: list[str], message: str, run_dir: Path, tones: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """There is no stack trace, the exit status is 2, and the user's files stay as they were."""
    empty = tmp_path / "EMPTY"
    empty.mkdir()
    config = str(ROOT / "configs/models/toy.yaml")
    seeds = tmp_path / "SEEDS"
    (seeds / "seed-0").mkdir(parents=True)
    for name in ("seeds.json", "seed-0/config.yaml"):
        (seeds / name).touch()
    places = {"MODEL": str(run_dir / "model"), "TONES": str(tones), "CONFIG": config}
    places |= {"EMPTY": str(empty), "SEEDS": str(seeds)}
    filled = [fill(argument, places) for argument in arguments]
    if arguments[0] in ("fit", "specialize") and not arguments[-1].startswith("--"):
        filled += ["--run_dir", str(tmp_path / "run")]
    before = tree(tones)
    try:
        status = main(filled)
    except SystemExit as error:  # the option parser's own refusal
        status = error.code
    printed = capfd.readouterr().err
    assert status == 2
    assert message in printed
    assert "Traceback" not in printed
    assert tree(tones) == {**before, **{name: digest for name, digest in tree(tones).items() if name.endswith(".csv")}}


def fill(argument: str, places: dict[str, str]) -> str:
    for name, place in places.items():
        argument = argument.replace(name, place)
    return argument
