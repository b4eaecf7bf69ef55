"""Which model, clips and folder an export is about, for every thing that can be named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from asr_lightning.errors import DataError, ModelError
from asr_lightning.export import source
from asr_lightning.runtime.exported import ExportRecord

ADAPTER = "asr_lightning.adapters.whisper.WhisperAdapter"


def make_data(folder: Path, names: str = "abcdefghijklmnopqrstuvwxyz0123456789") -> Path:
    folder.mkdir()
    noise = np.random.default_rng(0).normal(0, 0.1, 8000)
    for number, name in enumerate(names):
        soundfile.write(folder / f"{name}.wav", noise, 16_000)
        (folder / f"{name}.txt").write_text(f"this is the text of clip {number}")
    return folder


def make_run(run_dir: Path, data: Path, config: bool = True) -> Path:
    (run_dir / "model").mkdir(parents=True)
    record = {"adapter": ADAPTER, "init_args": {"language": None}}
    (run_dir / "model" / "asr_lightning.json").write_text(json.dumps(record))
    if config:
        write_config(run_dir, data)
    return run_dir


def write_config(folder: Path, data: Path) -> None:
    folder.mkdir(exist_ok=True)
    options = {
        "model": {"adapter": {"init_args": {"source": "openai/whisper-tiny.en"}}, "normalizer": "english"},
        "data": {"audio_dir": str(data), "shares": [0.7, 0.2, 0.1], "seed": 0},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(options))


def make_export(folder: Path, **settings: object) -> Path:
    folder.mkdir(parents=True)
    record = ExportRecord(
        "ctranslate2", "int8", "whisper", "openai/whisper-tiny.en", settings, {}, {}, None, "0" * 64, run="mine"
    )
    record.write(folder)
    return folder


@pytest.mark.parametrize("named", ["", "model"])
def test_a_run_has_its_test_clips(tmp_path: Path, named: str) -> None:
    run_dir = make_run(tmp_path / "mine", make_data(tmp_path / "data"))
    found = source.find(str(run_dir / named))
    assert found.model == str(run_dir / "model")
    assert (found.name, found.run, found.family) == ("openai/whisper-tiny.en", "mine", "whisper")
    assert found.normalizer == "english"
    assert found.clips_are == "the test clips of the run"
    assert 0 < len(found.clips) < 36
    assert all(clip.path.is_file() and clip.text.startswith("this is") for clip in found.clips)
    assert found.exports == run_dir / "exports"


def test_several_seeds_have_the_clips_of_the_first(tmp_path: Path) -> None:
    data = make_data(tmp_path / "data")
    run_dir = make_run(tmp_path / "mine", data, config=False)
    (run_dir / "seeds.json").write_text("{}")
    write_config(run_dir / "seed-0", data)
    assert source.find(str(run_dir)).clips_are == "the test clips of the run"


def test_an_export_is_compared_on_the_clips_of_its_run(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "mine", make_data(tmp_path / "data"))
    export = make_export(run_dir / "exports" / "ctranslate2-int8")
    found = source.find(str(export))
    assert (found.model, found.run, found.family) == (str(export), "mine", "whisper")
    assert {clip.uid for clip in found.clips} == {clip.uid for clip in source.find(str(run_dir)).clips}


def test_recordings_that_have_gone_are_replaced_by_bundled_speech(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = make_run(tmp_path / "mine", tmp_path / "gone")
    found = source.find(str(run_dir))
    assert found.clips_are == "bundled speech of other people (en)"
    assert "gone: give --data FOLDER" in caplog.text


def test_bundled_speech_has_the_language_of_the_model(tmp_path: Path) -> None:
    assert source.find(str(make_export(tmp_path / "es", language="es"))).clips_are.endswith("(es)")
    with pytest.raises(DataError, match="language de: give --data FOLDER"):
        source.find(str(make_export(tmp_path / "de", language="de")))


def test_data_and_output_come_first(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "mine", make_data(tmp_path / "data"))
    other = make_data(tmp_path / "other", "xyz")
    found = source.find(str(run_dir), other, tmp_path / "there")
    assert [clip.uid for clip in found.clips] == ["x", "y", "z"]
    assert found.exports == tmp_path / "there"


@pytest.mark.parametrize(
    ("name", "exports"), [("whisper-tiny.en", Path("runs/whisper-tiny.en/exports")), ("moonshine-tiny", None)]
)
def test_a_name_is_a_model(name: str, exports: Path | None) -> None:
    found = source.find(name)
    assert (found.model, found.run) == (name, "")
    assert exports is None or found.exports == exports


def test_what_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no format for models of .*ToyAdapter"):
        source.find("toy")
    with pytest.raises(ModelError, match="no model 'nowhere'"):
        source.find("nowhere")
    write_config(tmp_path / "unfinished", tmp_path)
    with pytest.raises(ModelError, match="unfinished holds no model"):
        source.find(str(tmp_path / "unfinished"))
