"""Server-sent events of a job, across cut connections and restarts of the server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from asr_lightning.client.errors import ServerError
from asr_lightning.client.transport import AWAY, Transport

# Resting: nothing happens any more unless someone asks for it.
RESTING = frozenset({"succeeded", "failed", "cancelled", "interrupted", "purged"})
SILENCE_S = 45.0  # the server pings every 15 s
LONGEST_EVENT = 1 << 20  # characters


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Attributes:
        seq: Number within the job, rising.
        time: UTC.
        kind: ``state``, ``progress`` or ``purged``.
        data: What changed.
    """

    seq: int
    time: str
    kind: str
    data: dict[str, Any]


@dataclass
class Parser:
    """Lines of a ``text/event-stream`` -> events; comments are pings.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
    """

    _fields: dict[str, str] = field(default_factory=dict)

    def feed(self, line: str) -> Event | None:
        """The event that an empty ``line`` completes, else None.

        Raises:
            ServerError: An event that is too long or no JSON.
        """
        if line == "":
            fields, self._fields = self._fields, {}
            return _event(fields) if "data" in fields else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data" and "data" in self._fields:
            value = f"{self._fields['data']}\n{value}"
        if len(value) > LONGEST_EVENT:
            raise ServerError("bad_answer", "the server sends an event without end", 200)
        if name:
            self._fields[name] = value
        return None


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """The events of ``lines``."""
    parser = Parser()
    for line in lines:
        event = parser.feed(line)
        if event is not None:
            yield event


def follow(transport: Transport, job_id: str, after: int = 0) -> Iterator[Event]:
    """Every event of a job after number ``after``, each once, until the job rests.

    Raises:
        ServerError: The server refused, such as for an unknown job.
        ConnectionFailedError: No answer after as many failures in a row as there are retries.
    """
    route, failures = f"/v1/jobs/{quote(job_id, safe='')}/events", 0
    while True:
        before = after
        try:
            for event in _connected(transport, route, after):
                if event.seq <= after:
                    continue
                after = event.seq
                yield event
                if _ends(event) and is_over(transport, job_id, after):
                    return
            error: Exception | None = None
        except (httpx.TransportError, ServerError) as caught:
            if isinstance(caught, ServerError) and caught.status not in AWAY:
                raise
            error = caught
        if error is None and is_over(transport, job_id, after):
            return
        failures = 0 if after > before or error is None else failures + 1
        if error is not None and failures > transport.retries:
            raise transport.failed(error) from error
        transport.pause(failures)


def is_over(transport: Transport, job_id: str, after: int) -> bool:
    """Whether no event follows number ``after`` and the job rests: a resumed job has failed earlier."""
    job = f"/v1/jobs/{quote(job_id, safe='')}"
    try:
        rests = transport.json("GET", job)["state"] in RESTING
        return rests and not transport.json("GET", f"{job}/events", params={"after": after, "limit": 1})["data"]
    except ServerError as error:
        if error.status in (404, 410):  # deleted meanwhile
            return True
        raise


def _connected(transport: Transport, route: str, after: int) -> Iterator[Event]:
    """The events of one connection."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(after)} if after else {})}
    with transport.stream(route, headers, read_timeout_s=SILENCE_S, params={"after": after}) as answer:
        yield from parse(answer.iter_lines())


def _ends(event: Event) -> bool:
    return event.kind == "purged" or (event.kind == "state" and event.data.get("state") in RESTING)


def _event(fields: dict[str, str]) -> Event | None:
    """The event of a block; None where it has no number and so is none of the job, such as the stream's end.

    Raises:
        ServerError: It cannot be read.
    """
    if "id" not in fields:
        return None
    try:
        found = json.loads(fields["data"])
        return Event(int(found["seq"]), str(found["time"]), str(found["kind"]), dict(found["data"]))
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError("bad_answer", "the server sends an event that cannot be read", 200) from error
