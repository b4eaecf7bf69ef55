"""One request from its arrival to its answer: who sends it and what it is about; and which requests are recorded."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.routing import compile_path
from starlette.types import Scope

from asr_lightning.server.http.audit import AuditLog, Entry
from asr_lightning.server.http.callers import NOBODY, Caller

logger = logging.getLogger(__name__)

CHANGES = ("POST", "PUT", "DELETE")
CONTENT = frozenset({
    "/download_model", "/v1/jobs/{job_id}/artifacts/{name}", "/v1/jobs/{job_id}/report.json",
    "/v1/jobs/{job_id}/report.html", "/v1/jobs/{job_id}/logs",
})  # fmt: skip
"""Routes whose answers hold what a person said, or a model made of it."""
LOOKED_AT = "/tensorboard/"
"""One look at TensorBoard is many requests, some of them POST; none changes anything."""
REFUSALS = 60
REFUSALS_S = 60.0
"""At most that many refusals of one name, or of all unknown senders, are recorded in that many seconds, so that nobody
fills the disk with them."""


@dataclass
class Visit:
    """A request that is being answered.

    Attributes:
        caller: Who sends it.
        refused: Name of the token that it showed, if that is not valid any more.
        subject: Id of the job or upload that it is about, once one is found.
    """

    caller: Caller = NOBODY
    refused: str | None = None
    subject: str | None = None


class Recorder:
    """Writes the audit log: what changes something, what takes content away, and what was refused.

    Polls of states and events are not recorded: many clients ask every second.

    Args:
        log: The log.
        routes: The paths of all routes, with names in braces.
    """

    def __init__(self, log: AuditLog, routes: Iterable[str]) -> None:
        self.log = log
        self._routes = [(compile_path(route)[0], route) for route in routes]
        self._refusals: dict[str, tuple[float, int]] = {}  # of each name: begin of its minute, and number in it
        self._left_out = 0

    async def record(self, scope: Scope, visit: Visit, status: int) -> None:
        """Record the request ``scope`` before its answer is sent, so that no answered change is missing.

        An error of the disk does not keep the answer back: deleting must work on a full disk. The next entry says how
        many are missing.
        """
        # A refused request is never routed, and an unknown path is a client's text, which may hold a token.
        route = next((route for pattern, route in self._routes if pattern.match(scope["path"])), None)
        if not is_recorded(scope, route, visit, status):
            return
        who = visit.refused or visit.caller.name
        if status >= 400 and not self._may_record_refusal(who):
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        entry = Entry(
            who=who,
            role=None if visit.caller is NOBODY else visit.caller.role.value,
            source=_peer(scope),
            forwarded=_forwarded(scope),
            what=f"{_method(scope)} {route or '(no route)'}",
            subject=visit.subject,
            result=status,
            not_recorded=left_out,
        )
        try:
            await run_in_threadpool(self.log.append, entry)
        except OSError as error:
            self._left_out += left_out + 1
            logger.error("the audit log cannot be written: %s", error)

    def _may_record_refusal(self, who: str) -> bool:
        begin, count = self._refusals.get(who, (-REFUSALS_S, 0))
        now = time.monotonic()
        if now - begin >= REFUSALS_S:
            begin, count = now, 0
        self._refusals[who] = begin, count + 1
        return count < REFUSALS


def is_recorded(scope: Scope, route: str | None, visit: Visit, status: int) -> bool:
    """Whether the audit log has a line for a request."""
    if status in (401, 403):
        return True
    if scope["path"].startswith(LOOKED_AT):
        return False
    if scope["method"] in CHANGES or (scope["method"] == "GET" and route in CONTENT):
        return True
    return status == 404 and visit.subject is not None  # a job of somebody else


def _method(scope: Scope) -> str:
    method = scope["method"]
    return method if method in ("GET", "HEAD", *CHANGES) else "(another method)"


def _peer(scope: Scope) -> str | None:
    client = scope.get("client")
    return client[0] if client else None


def _forwarded(scope: Scope) -> str | None:
    """The client's address after a proxy on this machine; anybody else could write into that header what they like."""
    peer, text = _peer(scope), Headers(scope=scope).get("x-forwarded-for", "").rpartition(",")[2].strip()
    try:
        return str(ipaddress.ip_address(text)) if peer and ipaddress.ip_address(peer).is_loopback else None
    except ValueError:
        return None
