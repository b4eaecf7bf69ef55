"""Named tokens: who may use the server, as what, until when, and how much of it.

They are in a file of their own, so that they survive the loss of the job store. ``serve token`` changes it, and a
running server reads it again as soon as it has changed.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from asr_lightning.durable.files import read_json, write_json
from asr_lightning.durable.locks import take_lock
from asr_lightning.durable.owners import give_to_owner_of_folder
from asr_lightning.server.engine.quota import Quota

logger = logging.getLogger(__name__)

FILE = "tokens.json"
VERSION = 1
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
RESERVED = frozenset({"anyone", "operator", "server", "nobody"})
"""Names that the audit log uses for those who have none."""
PREFIX = "asr_"
LOCK_PATIENCE_S = 5.0


class Role(StrEnum):
    """What the holder of a token may do."""

    ADMIN = "admin"
    """Everything, with the jobs of all."""
    USER = "user"
    """Everything with its own jobs; those of others do not exist for it."""
    VIEWER = "viewer"
    """See the state of all jobs; it downloads nothing and changes nothing."""


@dataclass(frozen=True)
class Token:
    """A named token, without the token itself.

    Attributes:
        name: Who has it. Jobs belong to the name, and so to whoever gets a later token of that name.
        role: What its holder may do.
        digest: SHA-256 of the token, in hexadecimal.
        created_at, expires_at, revoked_at: UTC, ISO 8601; None for never.
        quota: What the name may have.
    """

    name: str
    role: Role
    digest: str
    created_at: str
    expires_at: str | None = None
    revoked_at: str | None = None
    quota: Quota = field(default_factory=Quota)

    def refusal(self) -> str | None:
        """Why it is not valid now, such as "was revoked"; None if it is."""
        if self.revoked_at is not None:
            return "was revoked"
        if self.expires_at is not None and datetime.now(UTC) >= datetime.fromisoformat(self.expires_at):
            return "has expired"
        return None

    def as_dict(self) -> dict[str, object]:
        """The token as a JSON object."""
        return {
            "name": self.name, "role": self.role.value, "sha256": self.digest, "created_at": self.created_at,
            "expires_at": self.expires_at, "revoked_at": self.revoked_at, "max_jobs": self.quota.max_jobs,
            "max_bytes": self.quota.max_bytes, "max_queued": self.quota.max_queued,
        }  # fmt: skip

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Token:
        """The inverse of ``as_dict``.

        Raises:
            ValueError, KeyError, TypeError: It is damaged.
        """
        if not re.fullmatch("[0-9a-f]{64}", document["sha256"]) or not NAME.fullmatch(document["name"]):
            raise ValueError("it has no name or no hash")
        times = {key: document.get(key) for key in ("expires_at", "revoked_at")}
        for text in filter(None, times.values()):
            if datetime.fromisoformat(text).tzinfo is None:
                raise ValueError("a time has no time zone")
        limits = {key: document.get(key) for key in ("max_jobs", "max_queued", "max_bytes")}
        if any(limit is not None and type(limit) is not int for limit in limits.values()):
            raise ValueError("a quota is no whole number")
        return cls(
            document["name"], Role(document["role"]), document["sha256"], str(document["created_at"]), **times,
            quota=Quota(**limits),
        )  # fmt: skip


class TokenFileError(ValueError):
    """The file of tokens is damaged, or cannot be changed now; the message says what to do."""


def digest_of(token: str) -> str:
    """SHA-256 of a token, in hexadecimal.

    A slow hash with a salt, such as Argon2, protects passwords that somebody can guess. A token has 256 random bits, so
    that trying is hopeless at any speed, and a slow hash would only let anybody keep the server busy with wrong ones.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class TokenFile:
    """The named tokens of one home.

    Args:
        home: Home of the server.

    Attributes:
        path: The file.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / FILE
        self._read: tuple[int, ...] | None = None
        self._tokens: tuple[Token, ...] = ()
        self._seen = False

    def is_in_use(self) -> bool:
        """Whether there are named tokens, or were any since this process began: then nobody gets in without one."""
        self._refresh()
        return self._seen

    def find(self, sent: str) -> Token | None:
        """The token whose text is ``sent``, valid or not."""
        self._refresh()
        wanted, found = digest_of(sent).encode(), None
        for token in self._tokens:  # all of them, so that the time tells nothing of which one it was
            if hmac.compare_digest(token.digest.encode(), wanted):
                found = token
        return found

    def named(self, name: str) -> Token | None:
        """The token of ``name``, valid or not."""
        self._refresh()
        return next((token for token in self._tokens if token.name == name), None)

    def _refresh(self) -> None:
        """Read the file if it has changed. While it cannot be read, no named token is valid."""
        try:
            status = self.path.stat()
            version = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        except FileNotFoundError:
            self._tokens, self._read = (), None
            return
        except OSError as error:
            logger.error("%s cannot be read (%s): no named token is valid", self.path, error.strerror)
            self._seen, self._tokens, self._read = True, (), None
            return
        self._seen = True
        if version == self._read:
            return
        try:
            self._tokens, damaged = _parse(self.path)
        except OSError as error:
            damaged, self._tokens = [error.strerror or "unreadable"], ()
        for what in damaged:
            logger.error("%s: %s", self.path, what)
        self._read = version

    def all(self) -> list[Token]:
        """All tokens.

        Raises:
            TokenFileError: The file is damaged.
        """
        tokens, damaged = _parse(self.path) if self.path.exists() else ((), [])
        if damaged:
            raise TokenFileError(
                f"{self.path}: {damaged[0]}. Restore it from a backup, or move it away and add new tokens"
            )
        return list(tokens)

    def add(self, name: str, role: Role, expires_at: str | None = None, quota: Quota | None = None) -> str:
        """Make a token, and return its text, which is kept nowhere.

        Raises:
            TokenFileError: The file is damaged, or another command is changing it.
            ValueError: The name cannot be used, or has a valid token.
            OSError: The file cannot be written.
        """
        if not NAME.fullmatch(name) or name.lower() in RESERVED:
            raise ValueError(
                f"NAME has letters, digits and . _ @ - only, begins with a letter or digit, and is none of "
                f"{', '.join(sorted(RESERVED))}: {name!r} cannot be one"
            )
        text = PREFIX + secrets.token_urlsafe(32)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self._changing() as tokens:
            for token in tokens:
                if token.name != name and token.name.lower() == name.lower():
                    raise ValueError(f"there is a name {token.name}, which differs in its capitals only: take another")
                if token.name == name and token.refusal() is None:
                    raise ValueError(f"{name} has a valid token: serve token revoke {name}, then add a new one")
            tokens[:] = [token for token in tokens if token.name != name]
            tokens.append(Token(name, role, digest_of(text), now, expires_at, None, quota or Quota()))
        return text

    def change(self, name: str, change: Callable[[Token], Token]) -> Token:
        """Replace what is known of the token of ``name`` by what ``change`` makes of it; the token itself stays valid.

        Raises:
            TokenFileError: The file is damaged, or another command is changing it.
            ValueError: The name has no token.
            OSError: The file cannot be written.
        """
        with self._changing() as tokens:
            for number, token in enumerate(tokens):
                if token.name == name:
                    tokens[number] = change(token)
                    return tokens[number]
            raise ValueError(f"{name} has no token: serve token list shows those that exist")

    def revoke(self, name: str) -> Token:
        """Make the token of ``name`` invalid, for good.

        Raises:
            TokenFileError: The file is damaged, or another command is changing it.
            ValueError: The name has no token.
            OSError: The file cannot be written.
        """
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return self.change(name, lambda token: replace(token, revoked_at=token.revoked_at or at))

    @contextmanager
    def _changing(self) -> Iterator[list[Token]]:
        """All tokens, which are written when this ends without an error."""
        lock, deadline = self.path.with_name("locks") / "tokens.lock", time.monotonic() + LOCK_PATIENCE_S
        lock.parent.mkdir(exist_ok=True, mode=0o700)
        while (descriptor := take_lock(lock)) is None:
            if time.monotonic() > deadline:
                raise TokenFileError(f"another command is changing {self.path}: try again")
            time.sleep(0.02)
        try:
            give_to_owner_of_folder(lock)
            tokens = self.all()
            yield tokens
            write_json(self.path, {"version": VERSION, "tokens": [token.as_dict() for token in tokens]})
            give_to_owner_of_folder(self.path)
        finally:
            os.close(descriptor)


def _parse(path: Path) -> tuple[tuple[Token, ...], list[str]]:
    """The tokens in ``path``, and what is damaged in it."""
    document = read_json(path)
    entries = document.get("tokens") if document is not None else None
    if document is None or document.get("version") != VERSION or not isinstance(entries, list):
        return (), ["it is damaged, so that no named token is valid"]
    tokens, damaged = [], []
    for number, entry in enumerate(entries, 1):
        try:
            tokens.append(Token.from_json(entry))
        except (KeyError, TypeError, ValueError) as error:
            damaged.append(f"entry {number} is damaged ({error}), so that its token is not valid")
    return tuple(tokens), damaged
