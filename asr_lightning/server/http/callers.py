"""Who sends a request, and what its role allows."""

from __future__ import annotations

import re
from dataclasses import dataclass

from asr_lightning.server.engine.quota import UNLIMITED, Quota
from asr_lightning.server.engine.records import Job
from asr_lightning.server.http import auth
from asr_lightning.server.http.problems import Problem
from asr_lightning.server.http.settings import ServerSettings
from asr_lightning.server.http.tokens import Role, Token, TokenFile

READ = ("GET", "HEAD")
VIEWER_PATHS = re.compile(
    r"/|/healthz|/readyz|/version|/metrics|/openapi\.json|/status|/v1/models|/v1/jobs(/[^/]+(/events)?)?"
)
"""All that a viewer may read: a route that is added later is closed to viewers."""
NOT_FOR_USERS = frozenset({"/metrics"})
"""Figures about the jobs of all."""


@dataclass(frozen=True)
class Caller:
    """Who sends a request.

    Attributes:
        name: For the audit log: the name of the token, or else ``operator``, ``anyone`` or ``nobody``.
        role: What it may do.
        owner: Name that its jobs belong to; None if its token has no name.
        quota: What that name may have.
        key: What its signed paths are signed with; None if it needs none.
    """

    name: str
    role: Role
    owner: str | None = None
    quota: Quota = UNLIMITED
    key: str | None = None

    @property
    def only(self) -> str | None:
        """The name whose jobs it sees; None if it sees all."""
        return self.owner if self.role == Role.USER else None

    @property
    def reads_texts(self) -> bool:
        """Whether it may read what was said, of its own jobs or of all."""
        return self.role != Role.VIEWER

    def sees(self, owner: str | None) -> bool:
        """Whether it sees what belongs to ``owner``."""
        return self.role != Role.USER or owner == self.owner

    def sees_job(self, job: Job) -> bool:
        """Whether it sees ``job``."""
        return self.sees(job.owner)

    def require_allowed(self, method: str, path: str) -> None:
        """Require that its role may ask for ``path`` at all.

        Raises:
            Problem: It may not.
        """
        if self.role == Role.VIEWER and not (method in READ and VIEWER_PATHS.fullmatch(path)):
            raise Problem("forbidden", "a viewer sees the states of jobs, and downloads and changes nothing")
        if self.role == Role.USER and path in NOT_FOR_USERS:
            raise Problem("forbidden", "this is about the jobs of all names: it needs the role admin or viewer")


ANYONE = Caller("anyone", Role.ADMIN)
"""Whoever asks a server that requires no token."""
NOBODY = Caller("nobody", Role.USER, owner="")
"""Whoever shows no valid token: no job belongs to it, so that it would see none even on a route that asked no one."""


class Callers:
    """Finds out who sends a request.

    Args:
        settings: The operator's settings.
        tokens: The named tokens.
    """

    def __init__(self, settings: ServerSettings, tokens: TokenFile) -> None:
        self.settings, self.tokens = settings, tokens

    def by_header(self, header: str | None) -> Caller | None:
        """Who sends the header ``Authorization``; None if it holds no token of this server.

        Raises:
            RefusedTokenError: The token was revoked, or has expired.
        """
        sent = auth.sent_token(header)
        if sent is not None:
            if self.settings.token is not None and auth.is_same(sent, self.settings.token):
                return Caller("operator", Role.ADMIN, key=self.settings.token)
            token = self.tokens.find(sent)
            if token is not None and token.refusal() is None:
                return _of(token)
            if token is not None and not self._is_open():
                raise RefusedTokenError(token)
        return ANYONE if self._is_open() else None

    def by_signature(self, signed: str, purpose: str) -> Caller | None:
        """Who made the signed path ``signed`` for ``purpose``; None if it is not valid, or not any more."""
        signature, _, name = signed.partition("~")
        if not name:
            key = self.settings.token
            return Caller("operator", Role.ADMIN, key=key) if key and auth.is_signed(key, purpose, signature) else None
        token = self.tokens.named(name)
        if token is None or token.refusal() is not None or not auth.is_signed(token.digest, purpose, signature):
            return None
        return _of(token)

    def is_still(self, caller: Caller) -> bool:
        """Whether the token of ``caller`` is still valid, for an answer that goes on for long."""
        if caller.owner is None:
            return caller != ANYONE or self._is_open()
        token = self.tokens.named(caller.owner)
        return token is not None and token.refusal() is None and token.digest == caller.key

    def _is_open(self) -> bool:
        """Whether no token is required: with named tokens, it is on every address, unless the operator decided."""
        return self.settings.no_auth or (self.settings.token is None and not self.tokens.is_in_use())


def signature(caller: Caller, purpose: str) -> str | None:
    """A part of a path that gives access to ``purpose`` in the name of ``caller``; None if it needs none."""
    if caller.key is None:
        return None
    signed = auth.signature(caller.key, purpose)
    return signed if caller.owner is None else f"{signed}~{caller.owner}"


class RefusedTokenError(Exception):
    """A token that was revoked or has expired.

    Attributes:
        token: The token.
    """

    def __init__(self, token: Token) -> None:
        super().__init__(f"the token {token.refusal()}")
        self.token = token


def _of(token: Token) -> Caller:
    return Caller(token.name, token.role, token.name, token.quota, token.digest)
