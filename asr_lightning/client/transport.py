"""Requests to one server: token, retries, and errors with remedies. Knows no route."""

from __future__ import annotations

import ipaddress
import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from asr_lightning import __version__
from asr_lightning.client.errors import ConnectionFailedError, ServerError, printable, problem

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Proxies answer these while the server is away (524: RunPod's, after 100 s); the request may be sent again.
AWAY = {502, 503, 504, 520, 521, 522, 523, 524}
LONGEST_PAUSE = 20  # times the first
TOLD = 1  # the retry before which the user is told
SMALL_ANSWER = 16 << 20  # bytes of JSON; more is no answer of ours


class Transport:
    """Sends requests to one host and to no other: redirects are refused, since they would carry the token along.

    Attributes:
        url: Address without a slash at its end.
        retries: Attempts after the first.
        pause_s: Before the first retry; each further one waits twice as long, at most 20 times the first.
    """

    def __init__(self, url: str, token: str | None, retries: int = 8, pause_s: float = 0.5) -> None:
        self.url, local = check_url(url)
        self.retries, self.pause_s = retries, pause_s
        headers = {"User-Agent": f"asr-lightning/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {check_token(token)}"
            if not local and self.url.startswith("http:"):
                logger.warning("%s is not encrypted: whoever can listen reads the token and the recordings", self.url)
        # Environment proxies must not see what stays on this machine.
        self._http = httpx.Client(
            headers=headers, follow_redirects=False, trust_env=not local, timeout=httpx.Timeout(60, connect=10)
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def json(self, method: str, path: str, *, retry: bool = True, **options: Any) -> Any:
        """The JSON of an answer.

        Args:
            method: HTTP method.
            path: From the root, already quoted.
            retry: Whether the request may reach the server twice; without it only a refused connection is retried.
            options: Of ``httpx.Client.request``. A ``content`` must be bytes, so that it can be sent again.

        Raises:
            ServerError: The server refused.
            ConnectionFailedError: No answer.
        """
        return self._parsed(self.attempt(lambda: self._checked(method, path, options), retry))

    def once(self, method: str, path: str, **options: Any) -> Any:
        """The JSON of an answer, without a retry.

        Raises:
            ServerError: The server refused.
            httpx.TransportError: The connection broke.
        """
        return self._parsed(self._checked(method, path, options))

    def send_file(self, path: str, archive: Path) -> Any:
        """The JSON of the answer to a form with the file ``data``, without a retry.

        Raises:
            ServerError: The server refused.
            httpx.TransportError: The connection broke.
        """
        with archive.open("rb") as file:
            form = {"data": ("data.tar.gz", file, "application/gzip")}
            return self.once("POST", path, files=form, timeout=httpx.Timeout(600, connect=10))

    def get(self, path: str, **options: Any) -> httpx.Response:
        """A small answer as it is.

        Raises:
            ServerError: The server refused.
            ConnectionFailedError: No answer.
        """
        return self.attempt(lambda: self._checked("GET", path, options))

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], read_timeout_s: float = 60, params: Mapping[str, Any] | None = None
    ) -> Iterator[httpx.Response]:
        """An open answer, once: whoever reads it retries from where it broke off.

        Raises:
            ServerError: The server refused.
            httpx.TransportError: The connection broke.
        """
        timeout = httpx.Timeout(60, connect=10, read=read_timeout_s)
        # Compressed bytes could not be resumed by their offset.
        headers = {"Accept-Encoding": "identity", **headers}
        with self._http.stream("GET", self.url + path, headers=headers, params=params, timeout=timeout) as answer:
            if answer.status_code != 200 and answer.status_code not in (206, 416):
                answer.read()
                self._refuse(answer)
            yield answer

    def attempt(self, send: Callable[[], T], retry: bool = True) -> T:
        """What ``send`` returns, tried again while the server is away.

        Raises:
            ServerError: The server refused.
            ConnectionFailedError: No answer after all retries.
        """
        for number in range(self.retries + 1):
            try:
                return send()
            except (httpx.TransportError, ServerError) as error:
                if number == self.retries or not _passing(error, retry):
                    raise self.failed(error) from error
                if number == TOLD:
                    logger.warning("%s does not answer; trying again", self.url)
                self.pause(number)
        raise AssertionError("unreachable")

    def pause(self, number: int) -> None:
        """Wait before retry ``number``, counted from 0; jitter keeps many clients apart."""
        time.sleep(self.pause_s * min(LONGEST_PAUSE, 2**number) * random.uniform(0.75, 1.25))

    def failed(self, error: Exception) -> Exception:
        """``error`` as the caller of the client sees it."""
        if isinstance(error, httpx.HTTPError):
            return ConnectionFailedError(self.url, printable(str(error)) or type(error).__name__)
        return error

    def _parsed(self, answer: httpx.Response) -> Any:
        """The JSON of ``answer``, None where it has none."""
        if answer.status_code == 204 or not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise ServerError("not_json", f"{self.url} is no training server: its answer is no JSON", 200) from error

    def _checked(self, method: str, path: str, options: Mapping[str, Any]) -> httpx.Response:
        answer = self._http.request(method, self.url + path, **options)
        if answer.status_code >= 300:
            self._refuse(answer)
        return answer

    def _refuse(self, answer: httpx.Response) -> None:
        """Raise what an answer that is no success stands for."""
        if answer.is_redirect:
            cause = f"{self.url} sends elsewhere, which is not followed; give the right address"
            raise ServerError("redirected", cause, answer.status_code)
        raise problem(answer.status_code, answer.content[:SMALL_ANSWER])


def _passing(error: Exception, retry: bool) -> bool:
    """Whether another attempt may succeed, and does no harm."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return True
    if isinstance(error, ServerError):
        return retry and error.status in AWAY
    return retry and not isinstance(error, httpx.UnsupportedProtocol)


def check_url(url: str) -> tuple[str, bool]:
    """``url`` without a slash at its end, and whether it is this machine.

    Raises:
        ValueError: It is no plain http or https address.
    """
    try:
        parsed = httpx.URL(url.strip())
    except httpx.InvalidURL as error:
        raise ValueError(f"--server {url!r} is no address; write it as http://127.0.0.1:5553") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.fragment:
        raise ValueError(f"--server {url!r} is no address of a server; write it as http://127.0.0.1:5553")
    if parsed.userinfo:
        raise ValueError("--server must hold no user or password; the token comes from ASR_SERVER_TOKEN")
    return str(parsed).rstrip("/"), is_local(parsed.host)


def is_local(host: str) -> bool:
    """Whether ``host`` is this machine by its name."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def check_token(token: str) -> str:
    """``token`` without white space around it.

    Raises:
        ValueError: It could not stand in a header; the message does not show it.
    """
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("ASR_SERVER_TOKEN holds characters that no token has; copy it again")
    return token
