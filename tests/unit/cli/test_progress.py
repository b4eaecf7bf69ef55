"""How far a recording is read, on a terminal and elsewhere; the key of ``listen``, and commands that fail."""

from __future__ import annotations

import io
import threading

import pytest

from asr_lightning.cli import listen, progress
from asr_lightning.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("file", [Terminal(), io.StringIO()])
def test_the_time_left_is_shown(file: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress(file)
    shown.show("a.wav", 60, 3600)
    assert file.getvalue() == "", "what is over at once needs no progress"
    now = 40.0
    shown.show("a.wav", 900, 3600)
    now = 41.0
    shown.show("a.wav", 930, 3600)
    shown.clear()
    first = "a.wav: 15:00 of 1:00:00 (25%), 2:00 left"
    on_terminal = f"\r\033[K{first}\r\033[Ka.wav: 15:30 of 1:00:00 (26%), 1:58 left\r\033[K"
    assert file.getvalue() == (on_terminal if file.isatty() else f"{first}\n")


def test_a_length_that_is_unknown_is_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    file, now = io.StringIO(), 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = Progress(file)
    now = 100.0
    shown.show("a.wav", 75, 0)
    assert file.getvalue() == "a.wav: 1:15\n"


def test_enter_is_pressed_and_pressed_again() -> None:
    before = set(threading.enumerate())
    is_down = [listen.key(io.StringIO("\n" * presses)) for presses in (0, 1, 2, 3)]
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=10)
    assert [is_now() for is_now in is_down] == [False, True, False, True]


def test_a_command_that_fails_does_not_end_the_dictation(caplog: pytest.LogCaptureFixture) -> None:
    listen.give("hello", ["false"])
    listen.give("hello", ["/nowhere/program"])
    assert caplog.text.count("the command has not taken 'hello'") == 2
