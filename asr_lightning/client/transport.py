"""Sends requests to one server: adds the token, retries, and turns refusals into errors with a remedy."""

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

AWAY = {502, 503, 504, 520, 521, 522, 523, 524}
"""Statuses with which proxies answer while the server cannot be reached (524 is RunPod's, after 100 s)."""
MAX_PAUSE_FACTOR = 20
WARN_BEFORE_RETRY = 1  # a single failure is not worth a warning
MAX_PROBLEM_BYTES = 16 << 20


class Transport:
    """Sends requests to a single host: redirects are refused, because they would carry the token elsewhere.

    Attributes:
        url: Address of the server, without a slash at its end.
        retries: Number of attempts after the first.
        pause_s: Seconds before the first retry; each further one waits twice as long, at most 20 times the first.
    """

    def __init__(self, url: str, token: str | None, retries: int = 8, pause_s: float = 0.5) -> None:
        self.url, local = parse_url(url)
        self.retries, self.pause_s = retries, pause_s
        headers = {"User-Agent": f"asr-lightning/{__version__}"}
        if token:
            headers["Authorization"] = f"Bearer {require_valid_token(token)}"
            if not local and self.url.startswith("http:"):
                logger.warning("%s is not encrypted: whoever can listen reads the token and the recordings", self.url)
        # trust_env: a proxy from the environment must not see requests that stay on this machine.
        self._http = httpx.Client(
            headers=headers, follow_redirects=False, trust_env=not local, timeout=httpx.Timeout(60, connect=10)
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def json(self, method: str, path: str, *, retry: bool = True, **options: Any) -> Any:
        """Send a request, and return the JSON of the answer.

        Args:
            method: HTTP method.
            path: Path of the request, already quoted.
            retry: Whether the request may reach the server twice; if not, only a refused connection is retried.
            options: Arguments of ``httpx.Client.request``. A ``content`` must be bytes, so that it can be sent again.

        Raises:
            ServerError: The server refused the request.
            ConnectionFailedError: The server did not answer, after all retries.
        """
        return self._parsed(self.attempt(lambda: self._checked(method, path, options), retry))

    def once(self, method: str, path: str, **options: Any) -> Any:
        """Send a request without retries, and return the JSON of the answer.

        Raises:
            ServerError: The server refused the request.
            httpx.TransportError: The connection failed.
        """
        return self._parsed(self._checked(method, path, options))

    def send_file(self, path: str, archive: Path) -> Any:
        """Post ``archive`` as the file ``data`` of a form, without retries, and return the JSON of the answer.

        Raises:
            ServerError: The server refused the request.
            httpx.TransportError: The connection failed.
        """
        with archive.open("rb") as file:
            form = {"data": ("data.tar.gz", file, "application/gzip")}
            return self.once("POST", path, files=form, timeout=httpx.Timeout(600, connect=10))

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Send a GET request, and return the answer, which should be small.

        Raises:
            ServerError: The server refused the request.
            ConnectionFailedError: The server did not answer, after all retries.
        """
        return self.attempt(lambda: self._checked("GET", path, options))

    @contextmanager
    def stream(
        self, path: str, headers: Mapping[str, str], read_timeout_s: float = 60, params: Mapping[str, int] | None = None
    ) -> Iterator[httpx.Response]:
        """Open an answer for reading block by block, without retries: the caller resumes where it broke off.

        Raises:
            ServerError: The server refused the request.
            httpx.TransportError: The connection failed.
        """
        timeout = httpx.Timeout(60, connect=10, read=read_timeout_s)
        # A download is resumed by its offset, which would not fit compressed bytes.
        headers = {"Accept-Encoding": "identity", **headers}
        with self._http.stream("GET", self.url + path, headers=headers, params=params, timeout=timeout) as answer:
            if answer.status_code != 200 and answer.status_code not in (206, 416):
                answer.read()
                self._refuse(answer)
            yield answer

    def attempt(self, send: Callable[[], T], retry: bool = True) -> T:
        """The result of ``send``, which is called again while the server cannot be reached.

        Raises:
            ServerError: The server refused the request.
            ConnectionFailedError: The server did not answer, after all retries.
        """
        for number in range(self.retries + 1):
            try:
                return send()
            except (httpx.TransportError, ServerError) as error:
                if number == self.retries or not _may_retry(error, retry):
                    raise self.failed(error) from error
                if number == WARN_BEFORE_RETRY:
                    logger.warning("%s does not answer; trying again", self.url)
                self.pause(number)
        raise AssertionError("unreachable")

    def pause(self, number: int) -> None:
        """Wait before retry ``number``, counted from 0; a random part keeps many clients from retrying at once."""
        time.sleep(self.pause_s * min(MAX_PAUSE_FACTOR, 2**number) * random.uniform(0.75, 1.25))

    def failed(self, error: Exception) -> Exception:
        """The error that the client raises for ``error``."""
        if isinstance(error, httpx.HTTPError):
            return ConnectionFailedError(self.url, printable(str(error)) or type(error).__name__)
        return error

    def _parsed(self, answer: httpx.Response) -> Any:
        """The JSON of ``answer``; None if it has no content."""
        if answer.status_code == 204 or not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise ServerError("not_json", f"{self.url} is no training server: its answer is not JSON", 200) from error

    def _checked(self, method: str, path: str, options: Mapping[str, Any]) -> httpx.Response:
        answer = self._http.request(method, self.url + path, **options)
        if answer.status_code >= 300:
            self._refuse(answer)
        return answer

    def _refuse(self, answer: httpx.Response) -> None:
        """Raise the error for an answer that is not a success."""
        if answer.is_redirect:
            cause = f"{self.url} sends elsewhere, which is not followed; give the right address"
            raise ServerError("redirected", cause, answer.status_code)
        raise problem(answer.status_code, answer.content[:MAX_PROBLEM_BYTES])


def _may_retry(error: Exception, retry: bool) -> bool:
    """Whether another attempt may succeed and does no harm."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return True
    if isinstance(error, ServerError):
        return retry and error.status in AWAY
    return retry and not isinstance(error, httpx.UnsupportedProtocol)


def parse_url(url: str) -> tuple[str, bool]:
    """``url`` without a slash at its end, and whether it is an address of this machine.

    Raises:
        ValueError: It is not a plain http or https address.
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
    """Whether ``host`` is a loopback address, or a name of localhost."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def require_valid_token(token: str) -> str:
    """``token`` without white space around it.

    Raises:
        ValueError: It cannot be sent in a header. The message does not contain the token.
    """
    token = token.strip()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("ASR_SERVER_TOKEN holds characters that no token has; copy it again")
    return token
