"""What the commands that administer a server's home have in common: its option, and their line in the audit log."""

from __future__ import annotations

import argparse
import getpass
import os
from pathlib import Path

HOME = "~/.asr_lightning"
HOME_HELP = f"folder of everything that the server keeps (ASR_HOME; {HOME})"


def option() -> argparse.ArgumentParser:
    """A parser with the option ``--home``, for commands to inherit."""
    options = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    options.add_argument("--home", type=Path, default=Path(os.environ.get("ASR_HOME") or HOME), help=HOME_HELP)
    return options


def require_packages() -> None:
    """Require the optional packages of the server.

    Raises:
        MissingExtraError: One of them is missing; the message says how to install it.
    """
    from asr_lightning.errors import require_extra

    for module in ("fastapi", "uvicorn", "python_multipart", "httpx", "psutil"):
        require_extra("server", module, "serve")


def existing(home: Path) -> Path:
    """The path of a home that a server has used.

    Raises:
        ValueError: There is none.
    """
    from asr_lightning.server.engine.claim import is_home

    path = home.expanduser().absolute()
    if not is_home(path):
        raise ValueError(f"{path} is no home of a server: name it with --home")
    return path


def record(home: Path, what: str, subject: str | None = None, who: str | None = None) -> str:
    """Record in the audit log what ``who``, or else a user of this machine, has done.

    Returns:
        The number and the hash of the line, as ``serve audit verify --expect`` takes them; on a full disk a warning.
    """
    from asr_lightning.server.http.audit import COMMAND_LINE, AuditLog, Entry

    try:
        number, digest = AuditLog(home).append(
            Entry(who or f"local:{_user()}", what, "done", source=COMMAND_LINE, subject=subject)
        )
    except OSError as error:
        return f"WARNING: it cannot be written ({error.strerror})"
    return f"{number}:{digest}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, as in some containers
        return str(os.getuid())
