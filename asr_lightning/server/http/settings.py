"""The operator's settings of the server."""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asr_lightning.server.engine.settings import MIN_FREE_BYTES

WILDCARDS = ("0.0.0.0", "::", "")
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
MIN_TOKEN_CHARACTERS = 16


@dataclass(frozen=True)
class BodyLimits:
    """How large and how slow the body of a request may be.

    Attributes:
        upload: Largest body with a data set, in bytes.
        other: Largest body of any other kind, in bytes.
        rate: Bytes per second at which a body must arrive, on average.
        patience_s: Seconds during which the rate does not count.
        total_s: Seconds within which the whole body must arrive.
    """

    upload: int = 2 << 30
    other: int = 64 << 10
    rate: int = 1024
    patience_s: float = 20
    total_s: float = 2 * 3600


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections there may be at a time, and how long a client may take to send a request.

    Attributes:
        authorized: Largest number of connections on which a request was authorized.
        anonymous: Largest number of all other connections.
        anonymous_of_address: Largest number of those of one address.
        first_byte_s: Seconds within which the first byte of a new connection must arrive.
        head_s: Seconds within which the whole head of a request must arrive.
    """

    authorized: int = 1024
    anonymous: int = 512
    anonymous_of_address: int = 64
    first_byte_s: float = 5
    head_s: float = 20


@dataclass(frozen=True)
class ServerSettings:
    """The operator's settings of the server.

    Attributes:
        hosts: Host names that a request may name, in lower case and without a port.
        token: Bearer token of the operator; None if there is none. Then clients need none either, until there are named
            tokens.
        no_auth: Whether clients never need a token, by the operator's decision.
        body: Limits of a request's body.
        connections: Limits of connections.
        tensorboard: Whether TensorBoard is offered.
        tensorboard_public: Whether TensorBoard listens on all addresses without a token, as the predecessor's did.
        min_free_bytes: Free bytes on the disk below which uploads are refused.
        streams: Largest number of open streams of events and logs.
        uploads: Largest number of open resumable uploads.
        uploads_of_client: Largest number of those of one client.
        inspections: Largest number of data inspections without training; one of them runs, the others wait.
        ping_s: Seconds between comments in a silent event stream; RunPod's proxy closes silent connections at 100 s.
        poll_s: Seconds between two polls for new events.
    """

    hosts: frozenset[str] = LOOPBACK_HOSTS
    token: str | None = None
    no_auth: bool = False
    body: BodyLimits = field(default_factory=BodyLimits)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    tensorboard: bool = True
    tensorboard_public: bool = False
    min_free_bytes: int = MIN_FREE_BYTES
    streams: int = 512
    uploads: int = 64
    uploads_of_client: int = 16
    inspections: int = 4
    ping_s: float = 15
    poll_s: float = 0.5


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_hosts(host: str, port: int, extra: list[str], environment: Mapping[str, str]) -> frozenset[str]:
    """The host names that a request may name: loopback, the bound name, RunPod's proxy and the operator's own.

    A wildcard is an address to bind, never a name (DNS rebinding: MLflow CVE-2025-14279, Ray CVE-2026-27482).
    """
    names = {*LOOPBACK_HOSTS, *(name.lower() for name in extra)}
    if host not in WILDCARDS:
        names.add(f"[{host}]" if ":" in host else host.lower())
    if pod := environment.get("RUNPOD_POD_ID"):
        names.add(f"{pod}-{port}.proxy.runpod.net".lower())
    return frozenset(names)


def find_token(home: Path, host: str, insecure: bool, environment: Mapping[str, str]) -> tuple[str | None, bool]:
    """The token that clients must send, and whether this server made it. Loopback and ``insecure`` need none.

    Raises:
        ValueError: The operator's token is too short to withstand guessing.
    """
    if insecure:
        return None, False
    token = environment.get("ASR_SERVER_TOKEN", "").strip()
    if token:
        if len(token) < MIN_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable():
            raise ValueError(
                f"ASR_SERVER_TOKEN must have at least {MIN_TOKEN_CHARACTERS} ASCII characters: openssl rand -hex 16"
            )
        return token, False
    if is_loopback(host):
        return None, False
    return stored_token(home / "token"), True


def stored_token(path: Path) -> str:
    """The token that an earlier start saved, or a new one, in a file that only the owner can read."""
    if path.is_file() and not path.is_symlink() and len(token := path.read_text().strip()) >= MIN_TOKEN_CHARACTERS:
        path.chmod(0o600)
        return token
    path.unlink(missing_ok=True)
    token = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(token + "\n")
    return token
