"""The operator's settings of a model server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from asr_lightning.errors import OptionError
from asr_lightning.server.http.settings import MIN_TOKEN_CHARACTERS, WILDCARDS, is_loopback

TOKEN = "ASR_MODEL_TOKEN"
"""Environment variable with the token that clients must send. It is no option: other users of a machine see options."""
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Settings:
    """The operator's settings of a model server.

    Attributes:
        hosts: Host names that a request may name, in lower case and without a port; None is any. A token protects
            against DNS rebinding by itself, since a browser does not send it.
        token: Token that clients must send; None if they need none.
        origins: Origins of web pages that may ask, such as ``https://chat.example.org``; ``*`` is all.
        max_bytes: Largest body of a request.
        body_s: Seconds within which a body must arrive.
    """

    hosts: frozenset[str] | None
    token: str | None
    origins: tuple[str, ...] = ()
    max_bytes: int = 100 << 20
    body_s: float = 600


def token_of(host: str, insecure: bool, environment: Mapping[str, str]) -> str | None:
    """Return the token that clients of a server bound to ``host`` must send; None if they need none.

    Raises:
        OptionError: Others can reach the server, and there is no token; or it is too short to withstand guessing.
    """
    token = environment.get(TOKEN, "").strip()
    remedy = f"export {TOKEN}=$(openssl rand -hex 16)"
    if token and (len(token) < MIN_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable()):
        raise OptionError(f"{TOKEN} must have at least {MIN_TOKEN_CHARACTERS} ASCII characters: {remedy}")
    if not token and not is_loopback(host) and not insecure:
        raise OptionError(
            f"others can reach {host}, so clients need a token: {remedy}, or give --insecure_no_auth to let everybody "
            "who reaches the server use it",
            "host",
        )
    return token or None


def hosts_of(host: str, token: str | None, more: list[str]) -> frozenset[str] | None:
    """Return the host names that a request may name; None is any, where a token protects the server."""
    if token is not None:
        return None
    bound = set() if host in WILDCARDS else {host.lower()}
    return LOOPBACK | bound | {name.lower() for name in more}
