"""``fit``, ``validate`` and ``test``. LightningCLI provides their options, and takes seconds to import.

``--help`` therefore prints a file, which ``make help-pages`` writes.
"""

from __future__ import annotations

import sys
import time

from asr_lightning.cli.arguments import long_options
from asr_lightning.cli.finished_run import with_folder
from asr_lightning.cli.help_pages import PAGES
from asr_lightning.errors import require_training

STARTED = time.monotonic()


def run(command: str, arguments: list[str]) -> int:
    """Run ``command``, and print the results; returns the exit status."""
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write((PAGES / f"{command}.txt").read_text(encoding="utf-8"))
        return 0
    require_training(command)
    arguments = with_folder([command, *long_options(arguments)])[1:]
    from asr_lightning.cli import lightning_cli

    cli = lightning_cli.main([command, *arguments], STARTED)
    if command == "fit" and cli.runner.outcome is not None:
        print(cli.runner.outcome.summary)
        if cli.runner.exports is not None:
            print(f"\n{cli.runner.exports.table}")
    if cli.scores is not None:
        print(cli.scores.table)
    return 0
