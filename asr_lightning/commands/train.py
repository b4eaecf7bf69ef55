"""``fit``, ``validate`` and ``test``. Their options are LightningCLI's, which takes seconds to import.

``--help`` is therefore a page kept beside this file; ``make help-pages`` writes it and a test compares it.
"""

from __future__ import annotations

import sys
import time

from asr_lightning.commands.help_pages import PAGES

STARTED = time.monotonic()


def run(command: str, arguments: list[str]) -> int:
    """Run ``command`` and print what it found; returns the exit status."""
    if arguments in (["-h"], ["--help"]):
        sys.stdout.write((PAGES / f"{command}.txt").read_text(encoding="utf-8"))
        return 0
    from asr_lightning import cli, results

    found = cli.main([command, *arguments], STARTED)
    if found.results is not None:
        lines = results.summary(found.results, found.run_dir) if command == "fit" else results.table(found.results)
        print(lines)
    return 0
