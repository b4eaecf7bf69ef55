"""What ``cloud`` prints: progress, phases and logs of a training, and a rental in a few lines. Loads nothing heavy."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.cli.terminal import Advance, bar, one_line, visible_text

if TYPE_CHECKING:
    from asr_lightning.cloud.ledger import Record
    from asr_lightning.job_folder.progress import Progress


class Screen:
    """Shows the progress and the log of a training, on a terminal or in a file.

    Args:
        quiet: Whether to leave out the log.
    """

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._open_bar = quiet, ExitStack()
        self._training: Advance | None = None

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self._open_bar.close()

    def say(self, text: str) -> None:
        """Print a line, without control characters."""
        say_line(text)

    def log(self, data: bytes) -> None:
        """Print a part of the log above the bar."""
        if not self._quiet:
            from tqdm import tqdm

            tqdm.write(visible_text(data.decode("utf-8", "replace")), file=sys.stderr, end="")

    def progress(self, progress: Progress, cost: float) -> None:
        """Move the bar, and say what is being done."""
        self._training = self._training or self.moved("training", "%")
        text = one_line(progress.message or progress.phase)
        self._training(round(100 * progress.fraction), 100, f"{text}, ${cost:.2f}" if cost else text)

    def moved(self, what: str, unit: str = "") -> Advance:
        """Open a bar for ``what``, and close the previous one."""
        self._open_bar.close()
        return self._open_bar.enter_context(bar(what, unit or ("clips" if what == "packing" else "B")))


def record_lines(record: Record, state: str) -> list[str]:
    """The lines that describe a rental to a person."""
    lines = [
        f"rental   {record.id}, {record.spec['model']}, {record.gpu} at {record.provider}",
        f"state    {state}{', detached' if record.detached and not record.is_over else ''}",
        f"used     {used(record)}",
    ]
    if record.error:
        lines.append(f"error    {one_line(record.error.message)} ({record.error.code})")
    if record.outcome == "succeeded":
        lines += _result_lines(record)
    return lines


def _result_lines(record: Record) -> list[str]:
    metrics = record.metrics or {}
    lines = [f"model    {Path(record.output) / 'model.tar.gz'}", f"report   {Path(record.output) / 'report.html'}"]
    if metrics.get("before") is not None and metrics.get("after") is not None:
        lines.append(f"WER      {metrics['before']:.1%} before, {metrics['after']:.1%} after")
    return [*lines, f"verdict  {one_line(str(metrics['verdict']))}"] if metrics.get("verdict") else lines


def used(record: Record) -> str:
    """Time and cost by the list price; only the provider's bill is exact."""
    return "nothing" if record.seconds is None else f"{record.seconds:.0f} s, about ${record.cost:.2f}"


def show_end(record: Record) -> int:
    """Print how a rental ended; returns the exit status, which is 0 only after a success."""
    print("\n".join(record_lines(record, record.outcome or record.step)))
    return int(record.outcome != "succeeded")


def say_line(text: str) -> None:
    """Print lines to stderr, so that they do not mix with results on stdout."""
    for line in text.splitlines():
        print(visible_text(line), file=sys.stderr)
