"""``serve audit``: check and show the log of who did what on a server."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from asr_lightning.cli import serve_home
from asr_lightning.cli.terminal import visible_text

if TYPE_CHECKING:
    from asr_lightning.server.http.audit import AuditLog

COLUMNS = ("time", "who", "from", "what", "subject", "result")


def parser() -> argparse.ArgumentParser:
    """The parser for ``serve audit``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning serve audit", description=__doc__, allow_abbrev=False
    )
    home = serve_home.option()
    actions = options.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "check that no line was changed, removed or inserted; names the first line that is wrong"
    verify = actions.add_parser("verify", help=text, description=text, parents=[home], allow_abbrev=False)
    verify.add_argument(
        "--expect", metavar="LINE:HASH", help="what an earlier check printed: the log must still hold that line"
    )
    text = "print the last lines"
    show = actions.add_parser("show", help=text, description=text, parents=[home], allow_abbrev=False)
    show.add_argument("--last", type=int, default=50, metavar="N", help="number of lines (50)")
    show.add_argument("--who", metavar="NAME", help="only what this name did")
    show.add_argument("--json", action="store_true", help="the lines as they are stored")
    return options


def run(arguments: list[str]) -> int:
    """Carry out the action; the exit status is 1 if the log is not in order.

    Raises:
        ValueError: There is no such home, or an option is malformed.
        OSError: The log cannot be read.
    """
    options = parser().parse_args(arguments)
    serve_home.require_packages()
    from asr_lightning.server.http.audit import AuditLog

    log = AuditLog(serve_home.existing(options.home))
    if not log.path.exists():
        raise ValueError(f"there is no {log.path}: no server of this version has used this home yet, or it was removed")
    return _verify(log, options.expect) if options.action == "verify" else _show(log, options)


def _verify(log: AuditLog, expect: str | None) -> int:
    match = re.fullmatch(r"([0-9]{1,15}):([0-9a-f]{64})", expect) if expect is not None else None
    if expect is not None and match is None:
        raise ValueError(f"--expect takes LINE:HASH as an earlier check printed it, not {expect!r}")
    verdict = log.verify()
    if verdict.wrong is not None:
        sys.stderr.write(f"{log.path} line {verdict.lines + 1}: {verdict.wrong}\n")
        return 1
    if match is not None and log.hash_of(int(match[1])) != match[2]:
        sys.stderr.write(f"{log.path} line {match[1]}: it is missing, or another than the expected one\n")
        return 1
    sys.stdout.write(f"{log.path}: {verdict.lines} line{'s' * (verdict.lines != 1)}, all in order\n")
    sys.stdout.write(f"keep this elsewhere, for the next check: --expect {verdict.lines}:{verdict.last}\n")
    return 0


def _show(log: AuditLog, options: argparse.Namespace) -> int:
    if options.last < 1:
        raise ValueError(f"--last must be at least 1, not {options.last}")
    chosen = (line for line in log.lines() if options.who is None or _members(line).get("who") == options.who)
    for line in deque(chosen, maxlen=options.last):
        if options.json:
            text = line.decode("utf-8", "replace")
        else:
            members = _members(line)
            members["from"] = members.get("forwarded", members.get("from", "-"))  # the client, where a proxy names it
            text = "  ".join(str(members.get(column, "-")) for column in COLUMNS)
        sys.stdout.write(f"{visible_text(text)}\n")
    return 0


def _members(line: bytes) -> dict[str, Any]:
    """The members of a line; none if it is damaged, which ``verify`` reports."""
    try:
        members = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return members if isinstance(members, dict) else {}
