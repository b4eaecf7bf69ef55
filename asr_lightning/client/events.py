"""Server-sent events of a job; following them survives lost connections and restarts of the server."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import quote

import httpx

from asr_lightning.client.answers import EventData
from asr_lightning.client.errors import ServerError
from asr_lightning.client.transport import AWAY, Transport

RESTING = frozenset({"succeeded", "failed", "cancelled", "interrupted", "purged"})
"""States in which nothing happens to a job unless somebody asks for it, such as with ``resume``."""
READ_TIMEOUT_S = 45.0  # the server pings every 15 s
MAX_EVENT_CHARS = 1 << 20


@dataclass(frozen=True)
class Event:
    """Something that happened to a job.

    Attributes:
        seq: Number of the event within its job; later events have higher numbers.
        time: Time of the event in UTC.
        kind: ``state``, ``progress`` or ``purged``.
        data: What the event reports.
    """

    seq: int
    time: str
    kind: str
    data: EventData


@dataclass
class Parser:
    """Parses a ``text/event-stream`` line by line; its comments are pings and give no event.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6.
    """

    _fields: dict[str, str] = field(default_factory=dict)

    def feed(self, line: str) -> Event | None:
        """The event that ``line`` completes, which is an empty one; None for any other line.

        Raises:
            ServerError: An event is too long, or is not valid JSON.
        """
        if line == "":
            fields, self._fields = self._fields, {}
            return _event(fields) if "data" in fields else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data" and "data" in self._fields:
            value = f"{self._fields['data']}\n{value}"
        if len(value) > MAX_EVENT_CHARS:
            raise ServerError("bad_answer", "the server sends an event without end", 200)
        if name:
            self._fields[name] = value
        return None


def parse(lines: Iterable[str]) -> Iterator[Event]:
    """The events that ``lines`` contain."""
    parser = Parser()
    for line in lines:
        event = parser.feed(line)
        if event is not None:
            yield event


def follow(transport: Transport, job_id: str, after: int = 0) -> Iterator[Event]:
    """The events of a job with numbers above ``after``, each one once, until the job rests.

    Raises:
        ServerError: The server refused the request, such as for an unknown job.
        ConnectionFailedError: The connection failed more often in a row than there are retries.
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
                if _may_be_last(event) and is_over(transport, job_id, after):
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
    """Whether the job rests and has no event above ``after``: one that failed may have been resumed since."""
    job = f"/v1/jobs/{quote(job_id, safe='')}"
    try:
        rests = transport.json("GET", job)["state"] in RESTING
        return rests and not transport.json("GET", f"{job}/events", params={"after": after, "limit": 1})["data"]
    except ServerError as error:
        if error.status in (404, 410):  # the job was deleted meanwhile
            return True
        raise


def _connected(transport: Transport, route: str, after: int) -> Iterator[Event]:
    """The events that arrive over one connection."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": str(after)} if after else {})}
    with transport.stream(route, headers, read_timeout_s=READ_TIMEOUT_S, params={"after": after}) as answer:
        yield from parse(answer.iter_lines())


def _may_be_last(event: Event) -> bool:
    return event.kind == "purged" or (event.kind == "state" and event.data.get("state") in RESTING)


def _event(fields: dict[str, str]) -> Event | None:
    """The event that these fields describe; None if they have no id, as the message that ends the stream.

    Raises:
        ServerError: The fields cannot be read.
    """
    if "id" not in fields:
        return None
    try:
        event = json.loads(fields["data"])
        data = cast(EventData, dict(event["data"]))
        return Event(int(event["seq"]), str(event["time"]), str(event["kind"]), data)
    except (ValueError, KeyError, TypeError) as error:
        raise ServerError("bad_answer", "the server sends an event that cannot be read", 200) from error
