"""Authentication: a bearer token, which is compared in constant time, and signed paths that expire."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict

LINK_S = 3600
FREE_FAILURES = 5
MAX_DELAY_S = 2.0
FORGET_S = 60.0
PEERS = 1024


class Throttle:
    """Delays the answers to wrong tokens: each further failure of one address within a minute waits longer.

    A right token never waits, so that nobody can lock the owner out.
    """

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def failed(self, peer: str) -> float:
        """Count one failure of the address ``peer``; returns the seconds by which to delay its answer."""
        now = time.monotonic()
        count, last = self._failures.pop(peer, (0, now))
        count = 1 if now - last > FORGET_S else count + 1
        self._failures[peer] = (count, now)
        while len(self._failures) > PEERS:
            self._failures.popitem(last=False)
        return min(MAX_DELAY_S, 0.1 * max(0, count - FREE_FAILURES))


def sent_token(header: str | None) -> str | None:
    """The token in the header ``Authorization``; None if it holds none."""
    scheme, _, sent = (header or "").partition(" ")
    return sent.strip() if scheme.lower() == "bearer" else None


def is_same(sent: str, token: str) -> bool:
    """Whether a client sent ``token``. Digests are of equal length, so that the time needed reveals nothing."""
    return hmac.compare_digest(_digest(sent), _digest(token))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def signature(token: str, purpose: str, now: float | None = None) -> str:
    """``<expiry>.<mac>``, which gives access to ``purpose`` for an hour and does not reveal ``token``."""
    expiry = int((time.time() if now is None else now) + LINK_S)
    return f"{expiry}.{_mac(token, purpose, expiry)}"


def is_signed(token: str, purpose: str, signed: str, now: float | None = None) -> bool:
    """Whether ``signed`` was made by ``signature`` for ``purpose`` and has not expired."""
    expiry, _, mac = signed.partition(".")
    if not (expiry.isascii() and expiry.isdigit() and len(expiry) <= 12):
        return False
    seconds_left = int(expiry) - (time.time() if now is None else now)
    return (
        hmac.compare_digest(mac.encode(), _mac(token, purpose, int(expiry)).encode())
        and 0 < seconds_left <= LINK_S + 60
    )


def _mac(token: str, purpose: str, expiry: int) -> str:
    return hmac.new(token.encode(), f"{purpose}\n{expiry}".encode(), hashlib.sha256).hexdigest()[:40]
