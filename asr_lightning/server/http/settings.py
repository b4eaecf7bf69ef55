"""What the operator decides about the server."""

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
TOKEN_CHARACTERS = 16


@dataclass(frozen=True)
class BodyLimits:
    """How large and how slow a request may be.

    Attributes:
        upload: Bytes of a body that holds a data set.
        other: Bytes of any other body.
        rate: Bytes per second that a body must keep up, on average.
        patience_s: Seconds before the rate counts.
        total_s: Seconds for a whole body.
    """

    upload: int = 2 << 30
    other: int = 64 << 10
    rate: int = 1024
    patience_s: float = 20
    total_s: float = 2 * 3600


@dataclass(frozen=True)
class ServerSettings:
    """What the operator decides about the server.

    Attributes:
        hosts: Host names a request may be addressed to, without port, lower case.
        token: Bearer token; None: none is needed.
        body: Limits of requests.
        tensorboard: Whether TensorBoard is offered.
        tensorboard_public: Whether TensorBoard itself listens on all addresses, as in the seed, without any auth.
        min_free_bytes: Uploads are refused when the disk has less.
        streams: Open event and log streams at once.
        uploads: Resumable uploads at once.
        checks: Data checks without training at once; one runs, the others wait.
        ping_s: Seconds between signs of life in an event stream; RunPod's proxy closes silent connections at 100 s.
        poll_s: Seconds between looks for new events.
    """

    hosts: frozenset[str] = LOOPBACK_HOSTS
    token: str | None = None
    body: BodyLimits = field(default_factory=BodyLimits)
    tensorboard: bool = True
    tensorboard_public: bool = False
    min_free_bytes: int = MIN_FREE_BYTES
    streams: int = 512
    uploads: int = 64
    checks: int = 4
    ping_s: float = 15
    poll_s: float = 0.5


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_hosts(host: str, port: int, extra: list[str], environment: Mapping[str, str]) -> frozenset[str]:
    """Names a request may be addressed to: loopback, the bound name, RunPod's proxy and the operator's.

    The wildcard is an address to bind, never a name (DNS rebinding: MLflow CVE-2025-14279, Ray CVE-2026-27482).
    """
    names = {*LOOPBACK_HOSTS, *(name.lower() for name in extra)}
    if host not in WILDCARDS:
        names.add(f"[{host}]" if ":" in host else host.lower())
    if pod := environment.get("RUNPOD_POD_ID"):
        names.add(f"{pod}-{port}.proxy.runpod.net".lower())
    return frozenset(names)


def find_token(home: Path, host: str, insecure: bool, environment: Mapping[str, str]) -> tuple[str | None, bool]:
    """The token to ask for, and whether it was made here: on every bind but loopback there is one.

    Raises:
        ValueError: The operator's token is too short to withstand guessing.
    """
    if insecure:
        return None, False
    given = environment.get("ASR_SERVER_TOKEN", "").strip()
    if given:
        if len(given) < TOKEN_CHARACTERS or not given.isascii() or not given.isprintable():
            raise ValueError(
                f"ASR_SERVER_TOKEN must have at least {TOKEN_CHARACTERS} ASCII characters: openssl rand -hex 16"
            )
        return given, False
    if is_loopback(host):
        return None, False
    return stored_token(home / "token"), True


def stored_token(path: Path) -> str:
    """The token of an earlier start, or a new one, readable by the owner only."""
    if path.is_file() and not path.is_symlink() and len(found := path.read_text().strip()) >= TOKEN_CHARACTERS:
        path.chmod(0o600)
        return found
    path.unlink(missing_ok=True)
    token = secrets.token_urlsafe(32)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        file.write(token + "\n")
    return token
