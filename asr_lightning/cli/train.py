"""``fit``, ``validate`` and ``test``. Their options are LightningCLI's, which takes seconds to import.

``--help`` is therefore a page kept beside this file; ``make help-pages`` writes it and a test compares it.
"""

from __future__ import annotations

import sys
import time

from asr_lightning.cli.help_pages import PAGES

STARTED = time.monotonic()


def run(command: str, arguments: list[str]) -> int:
    """Run ``command`` and print what it found; returns the exit status."""
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write((PAGES / f"{command}.txt").read_text(encoding="utf-8"))
        return 0
    from asr_lightning.cli import lightning_cli

    ran = lightning_cli.main([command, *arguments], STARTED)
    if command == "fit" and ran.runner.outcome is not None:
        print(ran.runner.outcome.summary)
    if ran.scores is not None:
        print(ran.scores.table)
    return 0
