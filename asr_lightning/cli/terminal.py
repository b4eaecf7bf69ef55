"""Output for people: progress bars, and texts of others without control characters. Loads nothing heavy."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """Moves a progress bar."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Show that ``done`` of ``total`` is done, with a text that says what is being done."""


@contextmanager
def bar(name: str, unit: str) -> Iterator[Advance]:
    """A progress bar on a terminal, elsewhere a line whenever the text changes; it appears at its first step."""
    from tqdm import tqdm

    drawn: tqdm | None = None
    printed = ""

    def advance(done: int, total: int, text: str = "") -> None:
        nonlocal drawn, printed
        if drawn is None:
            drawn = tqdm(desc=name, total=total, unit=unit, unit_scale=unit == "B", disable=None, leave=False)
        if drawn.disable and text != printed:
            print(text, file=sys.stderr)
        printed = text
        drawn.set_postfix_str(text, refresh=False)
        drawn.update(done - drawn.n)

    try:
        yield advance
    finally:
        if drawn is not None:
            drawn.close()


def one_line(text: object) -> str:
    """``text`` on one line, without control characters."""
    from asr_lightning.client.errors import printable

    return printable(str(text))


def visible_text(text: str) -> str:
    """``text`` with its lines, but without other control characters."""
    from asr_lightning.client.errors import visible

    return "\n".join(map(visible, text.replace("\r", "\n").expandtabs().split("\n")))
