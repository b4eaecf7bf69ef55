"""An export from its command to its folder: what is proven is handed out, and what is refused leaves nothing behind."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from asr_lightning.__main__ import main
from asr_lightning.adapters.whisper import WhisperAdapter
from asr_lightning.errors import OptionError
from asr_lightning.export import run
from asr_lightning.export.source import Source, find
from asr_lightning.runtime import exported
from asr_lightning.runtime.exported import ExportRecord
from asr_lightning.runtime.formats import Modules, Target, parse
from tests.tiny_models import tiny_whisper
from tests.unit.export.test_source import make_data, write_config


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a tiny Whisper with seven test clips."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    adapter = WhisperAdapter(str(tiny_whisper(folder.parent / "tiny", multilingual=False)))
    (folder / "model").mkdir(parents=True)
    adapter.save(folder / "model")
    write_config(folder, make_data(folder.parent / "data", "abcdefghijklmnopqrstuvwxyz0123"))
    return folder


RECORD = ExportRecord("ctranslate2", "int8", "whisper", "", {}, {}, {}, None, "")


@pytest.fixture
def source(run_dir: Path, tmp_path: Path) -> Source:
    return find(str(run_dir), output=tmp_path / "exports")


def test_the_command_hands_out_what_it_has_proven(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run_dir), "--to", "ctranslate2:fp32,onnx:fp32"]) == 0
    table = capsys.readouterr().out
    assert "7 clips: the test clips of the run" in table
    for name in ("ctranslate2-fp32", "onnx-fp32"):
        folder = run_dir / "exports" / name
        assert str(folder) in table
        record = exported.record(folder)
        assert record is not None and record.measured is not None
        assert (record.measured.clips, record.measured.same_text) == (7, 1.0)
        assert record.measured.wer == record.measured.torch_wer
        assert record.measured.median_ms > 0 and record.measured.peak_memory_mb > 10
        assert record.files == exported.sha256_of(folder)
        card = (folder / "README.md").read_text()
        assert "## Privacy" in card and "base_model: openai/whisper-tiny.en" in card and str(run_dir) not in card
        assert (record.run, record.model) == ("mine", "openai/whisper-tiny.en")
        assert {"asr-lightning", "torch"} < set(record.tools)
    assert sorted(path.name for path in (run_dir / "exports").iterdir()) == ["ctranslate2-fp32", "onnx-fp32"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ("weights", "of its texts equal those of torch"),
        ("crash", "killed by SIGABRT"),
        ("hang", "longer than"),
    ],
)
def test_what_is_refused_leaves_nothing(source: Source, spoil: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPOIL", spoil)
    (target,) = parse("ctranslate2:fp32")
    modules = {"whisper": Modules("tests.unit.export.spoiling", "asr_lightning.runtime.whisper.ctranslate2")}
    spoiling = Target(replace(target.format, modules=modules), "fp32")
    exports = run.export(source, [spoiling], seconds=6 if spoil == "hang" else 120)
    (result,) = exports.results
    assert not exports.is_complete
    assert result.folder is None and any(said in problem for problem in result.problems)
    assert "refused: " in exports.table
    assert not list(source.exports.rglob("*"))


def test_only_an_earlier_export_is_replaced(source: Source) -> None:
    (target,) = parse("ctranslate2:int8")
    folder = source.exports / target.folder
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("of the user")
    with pytest.raises(OptionError, match="is no earlier export: remove it"):
        run.export(source, [target])
    RECORD.write(folder)
    (result,) = run.export(source, [target]).results
    assert result.folder == folder and not (folder / "notes.txt").exists()


def test_a_margin_of_its_own_is_in_the_settings_and_not_in_the_model(source: Source) -> None:
    before = (Path(source.model) / "asr_lightning.json").read_bytes()
    (result,) = run.export(replace(source, margin_seconds=0.7), parse("ctranslate2:int8")).results
    assert result.record is not None, result.problems
    assert result.record.settings["margin_seconds"] == 0.7
    assert (Path(source.model) / "asr_lightning.json").read_bytes() == before
    assert json.loads(before)["init_args"]["margin_seconds"] == 0.64


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "tflite"], "no format 'tflite'"),
        (["--to", "onnx-asr"], "takes no whisper models .*give --to ctranslate2, ggml"),
        (["--to", "ctranslate2", "--timeout", "0"], "--timeout must be above 0"),
        (["--to", "ctranslate2", "--margin", "-1"], "--margin is a time"),
    ],
)
def test_what_cannot_succeed_is_refused_first(
    run_dir: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run_dir), *arguments]) == 2
    assert re.search(said, capsys.readouterr().err)
