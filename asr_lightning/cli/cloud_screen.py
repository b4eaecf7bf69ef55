"""What ``cloud`` shows: bars, phases and logs, and a rental in a few lines. Loads nothing heavy."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr_lightning.cloud.ledger import Record
    from asr_lightning.job_folder.progress import Progress


class Screen:
    """Bars, phases and log on a terminal or in a file."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._open = quiet, ExitStack()
        self._training: Any = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def say(self, text: str) -> None:
        """Print a line, without what a terminal would obey."""
        say_line(text)

    def log(self, data: bytes) -> None:
        """Print a part of the log above the bar."""
        if not self._quiet:
            from tqdm import tqdm

            tqdm.write(visible_text(data), file=sys.stderr, end="")

    def progress(self, progress: Progress, cost: float) -> None:
        """Move the bar, and say what is being done."""
        self._training = self._training or self.moved("training", "%")
        text = one_line(progress.message or progress.phase)
        self._training(round(100 * progress.fraction), 100, f"{text}, ${cost:.2f}" if cost else text)

    def moved(self, what: str, unit: str = "") -> Any:
        """A bar; the one before is closed."""
        from asr_lightning.cli.remote import bar

        self._open.close()
        return self._open.enter_context(bar(what, unit or ("clips" if what == "packing" else "B")))


def record_lines(record: Record, state: str) -> list[str]:
    """A rental for people."""
    lines = [
        f"rental   {record.id}, {record.spec['model']}, {record.gpu} at {record.provider}",
        f"state    {state}{', detached' if record.detached and not record.is_over else ''}",
        f"used     {used(record)}",
    ]
    if record.error:
        lines.append(f"error    {one_line(record.error.message)} ({record.error.code})")
    if record.outcome == "succeeded":
        lines += _result(record)
    return lines


def _result(record: Record) -> list[str]:
    metrics = record.metrics or {}
    lines = [f"model    {Path(record.output) / 'model.tar.gz'}", f"report   {Path(record.output) / 'report.html'}"]
    if metrics.get("before") is not None and metrics.get("after") is not None:
        lines.append(f"WER      {metrics['before']:.1%} before, {metrics['after']:.1%} after")
    return [*lines, f"verdict  {one_line(str(metrics['verdict']))}"] if metrics.get("verdict") else lines


def used(record: Record) -> str:
    """Time and list price; the provider's bill is what counts."""
    return "nothing" if record.seconds is None else f"{record.seconds:.0f} s, about ${record.cost:.2f}"


def show_end(record: Record) -> int:
    """Print how a rental ended; returns the exit status."""
    print("\n".join(record_lines(record, record.outcome or record.step)))
    return int(record.outcome != "succeeded")


def say_line(text: str) -> None:
    """Print lines where they disturb no result."""
    for line in text.splitlines():
        print(visible_text(line.encode()), file=sys.stderr)


def one_line(text: str) -> str:
    """The same on one line."""
    from asr_lightning.client.errors import printable

    return printable(text)


def visible_text(data: bytes) -> str:
    """Text without what a terminal would obey."""
    from asr_lightning.client.errors import visible

    lines = data.decode("utf-8", "replace").replace("\r", "\n").expandtabs().split("\n")
    return "\n".join(map(visible, lines))
