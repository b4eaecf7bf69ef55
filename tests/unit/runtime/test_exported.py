"""The record of an export, and what is said of folders that cannot be loaded."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from asr_lightning.errors import MissingExtraError, ModelError
from asr_lightning.runtime import exported
from asr_lightning.runtime.exported import ExportRecord, Measured
from asr_lightning.runtime.formats import FORMATS, Modules

MEASURED = Measured(49, 0.13, 0.12, 0.98, 58.0, 90.0, 61.0, 120.0)
RECORD = ExportRecord(
    format="ctranslate2",
    variant="int8",
    family="whisper",
    model="whisper-tiny.en",
    settings={"margin_seconds": 0.64, "prompt": [1, 2]},
    files={"model.bin": "0" * 64},
    tools={"ctranslate2": "4.8.5"},
    measured=MEASURED,
    source_sha256="1" * 64,
    note="Größe",
)


@pytest.mark.parametrize("measured", [MEASURED, None])
def test_the_record_comes_back(tmp_path: Path, measured: Measured | None) -> None:
    written = replace(RECORD, measured=measured)
    written.write(tmp_path)
    assert exported.record(tmp_path) == written
    assert "Größe" in (tmp_path / exported.FILE_NAME).read_text(encoding="utf-8")


def test_a_record_without_the_optional_note_is_read(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    path = tmp_path / exported.FILE_NAME
    content = json.loads(path.read_text())
    del content["note"]
    path.write_text(json.dumps(content))
    assert exported.record(tmp_path) == replace(RECORD, note="")


def test_a_folder_of_something_else_has_no_record(tmp_path: Path) -> None:
    assert exported.record(tmp_path) is None
    with pytest.raises(ModelError, match="holds no export.json: make one with python -m asr_lightning export"):
        exported.load(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"measured": {"clips": 3}}', '{"measured": null}'])
def test_a_spoiled_record_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / exported.FILE_NAME).write_text(content)
    with pytest.raises(ModelError, match=re.escape(str(tmp_path / exported.FILE_NAME))):
        exported.load(tmp_path)


def test_every_other_file_is_hashed(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    for name in ("model.bin", "part/vocabulary.json", f"part/{exported.FILE_NAME}", exported.FILE_NAME):
        (tmp_path / name).write_text(name)
    hashes = exported.sha256_of(tmp_path)
    assert list(hashes) == ["model.bin", f"part/{exported.FILE_NAME}", "part/vocabulary.json"]
    assert all(value == hashlib.sha256(name.encode()).hexdigest() for name, value in hashes.items())


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    with pytest.raises(ModelError, match=r"lacks model\.bin: copy the whole folder again"):
        exported.load(tmp_path)


def test_a_format_of_a_later_version_is_named(tmp_path: Path) -> None:
    replace(RECORD, format="futurama", files={}).write(tmp_path)
    with pytest.raises(ModelError, match="the format 'futurama', which this version does not know"):
        exported.load(tmp_path)


def test_a_format_that_nothing_here_runs_says_what_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(RECORD, files={}).write(tmp_path)
    nowhere = {"whisper": Modules("asr_lightning.export.whisper.coreml", None)}
    monkeypatch.setattr(exported, "FORMATS", (replace(FORMATS[0], modules=nowhere, used_by="an app"),))
    with pytest.raises(ModelError, match="is for an app, and cannot be run here"):
        exported.load(tmp_path)


@pytest.mark.parametrize(("package", "extra"), [("onnxruntime", "runtime"), ("sherpa_onnx", "export")])
def test_a_missing_package_has_its_install_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    replace(RECORD, files={}).write(tmp_path)
    monkeypatch.setattr(exported, "FORMATS", (replace(FORMATS[0], packages=(package,)),))
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"needs {package}.*pip install 'asr-lightning\[{extra}\]'"):
        exported.load(tmp_path)
