"""``serve token``: add, change, list and revoke the tokens of names. A running server notices at once."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from asr_lightning.cli import serve_home

if TYPE_CHECKING:
    from asr_lightning.server.engine.quota import Quota
    from asr_lightning.server.http.tokens import Role, Token

ROLES = ("admin", "user", "viewer")
NONE = "none"
UNITS_H = {"h": 1, "d": 24, "w": 7 * 24}
POWERS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
ROLE_HELP = (
    "admin: everything; user: its own jobs, and those of others do not exist for it; viewer: the states of all jobs, "
    "without their data, and changes nothing (user)"
)


def parser() -> argparse.ArgumentParser:
    """The parser for ``serve token``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning serve token", description=__doc__, allow_abbrev=False
    )
    home = serve_home.option()
    actions = options.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "make a token, and print it this once"
    add = actions.add_parser("add", help=text, description=text, parents=[home], allow_abbrev=False)
    add.add_argument("name", metavar="NAME", help="who will have it; jobs belong to the name, also after a new token")
    _terms(add, "no limit", "never")
    text = "change the role, the expiry or the limits of a name; its token stays the same"
    change = actions.add_parser("set", help=text, description=text, parents=[home], allow_abbrev=False)
    change.add_argument("name", metavar="NAME")
    _terms(change, "none lifts it; as before", "none for never; as before")
    text = "list the names, without their tokens"
    shown = actions.add_parser("list", help=text, description=text, parents=[home], allow_abbrev=False)
    shown.add_argument("--json", action="store_true", help="as JSON, for programs")
    text = "make the token of a name invalid, for good; its jobs stay"
    revoke = actions.add_parser("revoke", help=text, description=text, parents=[home], allow_abbrev=False)
    revoke.add_argument("name", metavar="NAME")
    return options


def _terms(action: argparse.ArgumentParser, no_limit: str, never: str) -> None:
    """The options for what a name may do."""
    add = action.add_argument
    add("--role", choices=ROLES, help=ROLE_HELP)
    add("--expires", metavar="WHEN", help=f"after 12h, 90d or 4w, or on a date such as 2027-03-31; {never}")
    add("--max_jobs", metavar="N", help=f"jobs it may have, finished ones included; {no_limit}")
    add("--max_queued", metavar="N", help=f"jobs of it that may wait or run; {no_limit}")
    add("--max_bytes", metavar="SIZE", help=f"what its jobs and uploads may hold, such as 20G; {no_limit}")


def run(arguments: list[str]) -> int:
    """Carry out the action.

    Raises:
        ValueError: An option is out of range, or the name is not as it must be.
        OSError: The home cannot be used.
    """
    options = parser().parse_args(arguments)
    serve_home.require_packages()
    return {"add": _add, "set": _set, "list": _list, "revoke": _revoke}[options.action](options)


def _add(options: argparse.Namespace) -> int:
    from asr_lightning.server.engine.home import Home
    from asr_lightning.server.engine.quota import Quota
    from asr_lightning.server.http.tokens import Role, TokenFile

    role = Role(options.role or Role.USER)
    quota = _quota(options, Quota(), role)
    expires_at = None if options.expires in (None, NONE) else expiry(options.expires, datetime.now(UTC))
    home = Home(options.home).path
    tokens = TokenFile(home)
    is_first = not tokens.is_in_use()
    text = tokens.add(options.name, role, expires_at, quota)
    _say(f"audit log: {serve_home.record(home, f'serve token add ({role.value})', options.name)}")
    _say(f"the token of {options.name}, which is not shown again; its holder sets ASR_SERVER_TOKEN to it:")
    sys.stdout.write(f"{text}\n")
    if is_first:
        _say("from now on each request to this server needs a token, on this machine too")
    return 0


def _set(options: argparse.Namespace) -> int:
    from asr_lightning.server.http.tokens import Role, TokenFile

    expires_at = None if options.expires in (None, NONE) else expiry(options.expires, datetime.now(UTC))

    def change(token: Token) -> Token:
        role = Role(options.role or token.role)
        until = token.expires_at if options.expires is None else expires_at
        return replace(token, role=role, expires_at=until, quota=_quota(options, token.quota, role))

    home = serve_home.existing(options.home)
    token = TokenFile(home).change(options.name, change)
    _say(f"audit log: {serve_home.record(home, f'serve token set ({token.role.value})', options.name)}")
    _say("  ".join(_row(token)))
    return 0


def _quota(options: argparse.Namespace, before: Quota, role: Role) -> Quota:
    """The quota that the options name; where they name none, it stays as it was ``before``.

    Raises:
        ValueError: A number is out of range, or a viewer is given one.
    """
    limits: dict[str, int | None] = {}
    for name in ("max_jobs", "max_queued", "max_bytes"):
        text = getattr(options, name)
        if text is None:
            continue
        limits[name] = limit = None if text == NONE else (size_of(text) if name == "max_bytes" else number(name, text))
        if limit is not None and limit < 1:
            raise ValueError(f"--{name} must be at least 1, not {text}")
        if limit is not None and role == "viewer":
            raise ValueError(f"--{name} is for the roles admin and user: a viewer has no jobs")
    return replace(before, **limits)


def number(name: str, text: str) -> int:
    """The whole number that an option holds.

    Raises:
        ValueError: It holds something else.
    """
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise ValueError(f"--{name} takes a whole number, not {text!r}")
    return int(text)


def _list(options: argparse.Namespace) -> int:
    from asr_lightning.server.http.tokens import TokenFile

    tokens = TokenFile(serve_home.existing(options.home)).all()
    if options.json:
        entries = [{name: value for name, value in token.as_dict().items() if name != "sha256"} for token in tokens]
        sys.stdout.write(f"{json.dumps(entries, indent=2)}\n")
        return 0
    rows = [("name", "role", "token", "jobs", "waiting", "bytes"), *(_row(token) for token in tokens)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    return 0


def _row(token: Token) -> tuple[str, ...]:
    until = f"valid until {token.expires_at[:16].replace('T', ' ')} UTC" if token.expires_at else "valid"
    limits = (token.quota.max_jobs, token.quota.max_queued, token.quota.max_bytes)
    return (
        token.name,
        token.role.value,
        token.refusal() or until,
        *("-" if limit is None else str(limit) for limit in limits),
    )


def _revoke(options: argparse.Namespace) -> int:
    from asr_lightning.server.http.tokens import TokenFile

    home = serve_home.existing(options.home)
    TokenFile(home).revoke(options.name)
    _say(f"audit log: {serve_home.record(home, 'serve token revoke', options.name)}")
    _say(f"the token of {options.name} is not valid any more; its jobs stay, for an admin and for its next token")
    return 0


def expiry(text: str, now: datetime) -> str:
    """The moment that ``--expires`` names: UTC, ISO 8601.

    Raises:
        ValueError: It names none, or one that is past.
    """
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", text)
    try:
        if match:
            moment = now + timedelta(hours=int(match[1]) * UNITS_H[match[2]])
        else:
            moment = datetime.fromisoformat(text)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"--expires takes 12h, 90d, 4w or a date such as 2027-03-31, not {text!r}") from error
    if moment <= now:
        raise ValueError(f"--expires {text} is past: name a later time")
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def size_of(text: str) -> int:
    """The number of bytes that ``--max_bytes`` names, such as 500M or 20G, in powers of 1024.

    Raises:
        ValueError: It names none.
    """
    match = re.fullmatch(r"([0-9]{1,18})([KMGT]?)(i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(f"--max_bytes takes a size such as 500M or 20G, not {text!r}")
    return int(match[1]) << POWERS[match[2].upper()]


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
