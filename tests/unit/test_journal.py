"""Journals: lines that were cut off or damaged cost themselves and no other."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from asr_lightning.durable import journal

LINES = [{"n": 1}, {"n": 2, "text": "ä\nb"}, {"n": 3}]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "lines.jsonl"
    journal.append(path, LINES[:1])
    journal.append(path, LINES[1:])
    return path


def test_lines_come_back_in_order(path: Path) -> None:
    assert journal.read(path) == (LINES, True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_that_was_cut_off_is_left_out_and_the_next_one_is_whole(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])
    assert journal.read(path) == (LINES[:2], False)
    journal.append(path, [{"n": 4}])
    assert journal.read(path) == ([*LINES[:2], {"n": 4}], False)


@pytest.mark.parametrize("damaged", [b"\0\0\0", b"[1]", b"\xff", b'{"n":', b"[" * 100_000])
def test_a_damaged_line_is_left_out(path: Path, damaged: bytes) -> None:
    first, second, third, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, damaged, third, b""]))
    assert second and journal.read(path) == ([LINES[0], LINES[2]], False)


def test_no_file_and_a_folder_in_its_place_are_no_lines(tmp_path: Path) -> None:
    assert journal.read(tmp_path / "none") == journal.read(tmp_path) == ([], False)
    with pytest.raises(OSError, match="directory"):
        journal.append(tmp_path, LINES)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        journal.append(tmp_path / "link", LINES)
