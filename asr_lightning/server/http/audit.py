"""``audit.log``: who did what, when, from where, and with what result; a line of JSON for each.

Each line holds the hash of the line before, and of itself, so that a line which was changed, removed or inserted later
is found (``serve audit verify``). It holds ids, and no text of a client: no recording, transcript, file name or token.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from asr_lightning.durable import faults
from asr_lightning.durable.files import sync_folder
from asr_lightning.durable.owners import give_to_owner_of_folder

FILE = "audit.log"
START = "0" * 64
"""What the first line holds in place of the hash of the line before."""
LINE_BYTES = 4096
"""More than any line has."""
TAIL_BYTES = 2 * LINE_BYTES
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Entry:
    """What one line records.

    Attributes:
        who: Name of a token; ``operator`` for the one without a name, ``anyone`` where none is required, ``nobody`` for
            whoever showed no valid one, ``server`` for the server itself, ``local:USER`` for a command on its machine.
        role: The role of the token; None if there is none.
        source: Address of the client, or ``command line``.
        what: Method and route, such as ``DELETE /v1/jobs/{job_id}``, or a command.
        subject: What it was done to: id of a job or an upload, or name of a token; None if there is nothing.
        result: HTTP status, or ``done``.
        forwarded: The address of the client according to a proxy on this machine.
        not_recorded: Number of entries before this one that were left out: refusals beyond a limit, or after the log
            could not be written.
    """

    who: str
    what: str
    result: int | str
    role: str | None = None
    source: str | None = None
    forwarded: str | None = None
    subject: str | None = None
    not_recorded: int = 0

    def as_dict(self) -> dict[str, object]:
        """The members of the line, in order; those without a value are left out."""
        members: dict[str, object] = {
            "who": self.who, "role": self.role, "from": self.source, "forwarded": self.forwarded, "what": self.what,
            "subject": self.subject, "result": self.result, "not_recorded": self.not_recorded or None,
        }  # fmt: skip
        return {name: value for name, value in members.items() if value is not None}


@dataclass(frozen=True)
class Verdict:
    """What a check of the log found.

    Attributes:
        lines: Number of lines that are in order, from the first one on.
        last: Hash of the last of these.
        wrong: What is wrong with the line after these; None if they are all.
    """

    lines: int
    last: str
    wrong: str | None = None


class AuditLog:
    """The log of one home. Several threads and processes may append to it.

    Args:
        home: Home of the server.

    Attributes:
        path: The file.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FILE

    def append(self, entry: Entry) -> tuple[int, str]:
        """Add a line, which is on the disk when this returns; returns its number and hash.

        Raises:
            OSError: It cannot be written; then the log is as it was.
        """
        descriptor, is_new = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            tail = os.pread(descriptor, TAIL_BYTES, max(0, size - TAIL_BYTES))
            whole = tail[: tail.rfind(b"\n") + 1]
            torn = len(tail) - len(whole)
            if 0 < torn <= LINE_BYTES:  # the last line broke off in a crash, before its request was answered
                size -= torn
                os.ftruncate(descriptor, size)
            number, previous = _end_of(whole)
            line = _line(number + 1, entry, previous)
            try:
                _write(descriptor, b"\n" + line if torn > LINE_BYTES else line)
                faults.point("audit.written")
                os.fsync(descriptor)
            except (OSError, faults.InjectedError):
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if is_new:
            sync_folder(self.path.parent)
        return _end_of(line)

    def _open(self) -> tuple[int, bool]:
        flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self.path, flags), False
        except FileNotFoundError:
            descriptor = os.open(self.path, flags | os.O_CREAT, 0o600)
            give_to_owner_of_folder(self.path)
            return descriptor, True

    def lines(self) -> Iterator[bytes]:
        """The lines, without their ends.

        Raises:
            OSError: The file is missing, or cannot be read.
        """
        with self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # no line is half written
            left = os.fstat(file.fileno()).st_size
            fcntl.flock(file, fcntl.LOCK_UN)
            for line in file:
                left -= len(line)
                if left < 0:
                    return
                yield line.removesuffix(b"\n")

    def hash_of(self, number: int) -> str:
        """The hash of line ``number``, counted from 1, once all lines are known to be in order; the start of 0.

        Raises:
            OSError: The file is missing, or cannot be read.
        """
        if number == 0:
            return START
        line = next(itertools.islice(self.lines(), number - 1, None), None)
        return "" if line is None else str(json.loads(line)["hash"])

    def verify(self) -> Verdict:
        """Check each line against its own hash, and against the line before.

        Raises:
            OSError: The file is missing, or cannot be read.
        """
        number, last = 0, START
        for line in self.lines():
            members, wrong = _checked(line, number + 1, last)
            if wrong is not None:
                return Verdict(number, last, wrong)
            number, last = number + 1, str(members["hash"])
        return Verdict(number, last)


def _checked(line: bytes, number: int, previous: str) -> tuple[dict[str, Any], str | None]:
    """The members of line ``number``, and what is wrong with it."""
    try:
        members = json.loads(line)
        stated = members.pop("hash")
        written = _hashed(members)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, "it is no entry: it was changed, or cut off"
    if written.encode() != line or json.loads(written)["hash"] != stated:
        return {}, "its hash is wrong: it was changed"
    if members.get("seq") != number or members.get("previous") != previous:
        return {}, "it does not follow the line before: lines were removed, inserted or changed"
    return {**members, "hash": stated}, None


def _line(number: int, entry: Entry, previous: str) -> bytes:
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    members = {"seq": number, "time": time, **entry.as_dict(), "previous": previous}
    return f"{_hashed(members)}\n".encode()


def _hashed(members: dict[str, Any]) -> str:
    """The line with ``members`` and their hash."""
    text = json.dumps(members, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{text[:-1]},"hash":"{digest}"}}'


def _end_of(lines: bytes) -> tuple[int, str]:
    """Number and hash of the last of the whole ``lines``. A damaged one counts by its bytes, and so stays damaged."""
    last = lines[:-1].rpartition(b"\n")[2]
    if not last:
        return 0, START
    try:
        members = json.loads(last)
        return int(members["seq"]), str(members["hash"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return lines.count(b"\n"), hashlib.sha256(last).hexdigest()


def _write(descriptor: int, data: bytes) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(data):
            done += os.write(descriptor, view[done:])
