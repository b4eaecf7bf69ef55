"""``serve backup``: copy a server's home, tokens and audit log included, to a new folder while the server runs.

To restore it, stop the server and put a copy of that folder in the place of the home.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from asr_lightning.cli import serve_home


def parser() -> argparse.ArgumentParser:
    """The parser for ``serve backup``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning serve backup", description=__doc__, parents=[serve_home.option()],
        allow_abbrev=False,
    )  # fmt: skip
    options.add_argument(
        "folder", type=Path, metavar="FOLDER", help="a folder that does not exist, best on another disk"
    )
    return options


def run(arguments: list[str]) -> int:
    """Make the copy; the exit status is 1 if a model in it is damaged.

    Raises:
        ValueError: There is no such home.
        OSError: The folder exists, or something cannot be read or written.
    """
    options = parser().parse_args(arguments)
    serve_home.require_packages()
    from asr_lightning.server.engine.backup import back_up

    home = serve_home.existing(options.home)
    backup = back_up(home, options.folder)
    serve_home.record(home, "serve backup")
    sys.stdout.write(f"{options.folder}: {backup.jobs} job{'s' * (backup.jobs != 1)}, {backup.bytes / 1e6:.1f} MB\n")
    for path in backup.damaged:
        sys.stderr.write(f"WARNING: {path} is not as its job left it: it is missing or damaged in {home} too\n")
    return 1 if backup.damaged else 0
