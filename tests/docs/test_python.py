"""The code of docs/python.md runs in one interpreter, block after block, as a reader would type it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs/python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_code_of_the_page_runs(
    tones_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tones_once, tmp_path / "tones")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), names)
    printed = capsys.readouterr().out
    assert len(BLOCKS) == 8
    assert re.search(r"epoch 1: \d+\.\d%", printed)
    assert names["outcome"].verdict in printed and (tmp_path / "runs/tones/report.html").is_file()
    assert re.search(r"^WER \d+\.\d%$", printed, re.MULTILINE)
    assert (tmp_path / "models/mine/toy.pt").is_file()
