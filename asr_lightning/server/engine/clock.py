"""How much time has passed for the jobs in a home. Time that a jump of the clock only claims does not count.

``clock.json`` holds the newest time that a server saw, and the gaps: stretches between two looks that are too long for
a server that looks every minute. In a gap, the clock was set forward or no server ran. Which of the two cannot be told,
so no recording is deleted because of it.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

from asr_lightning.durable.files import read_json, write_json
from asr_lightning.server.engine.records import iso

logger = logging.getLogger(__name__)

FILE = "clock.json"
SLEW = timedelta(minutes=5)
"""How far a clock may be set back by time servers that keep it right."""
WRITE_EVERY = timedelta(minutes=10)
NEVER = datetime.min.replace(tzinfo=UTC)
LONGEST_LOOK, SHORTEST_LOOK = timedelta(days=1), timedelta(hours=1)


class Clock:
    """The clock of this machine, compared with what servers of this home saw earlier.

    Args:
        path: The file that remembers it.
        known: The newest time that the job store holds, for a home without the file; None if it holds none.
        retention: Time after which jobs are deleted. No more than this counts between two looks, or a day.
    """

    def __init__(self, path: Path, known: datetime | None, retention: timedelta) -> None:
        self.path = path
        self.longest = max(SHORTEST_LOOK, min(LONGEST_LOOK, retention))
        self.now = datetime.now(UTC)
        newest, self.gaps = _read(path)
        self.newest = newest or min(known or self.now, self.now)
        self._written = NEVER
        self._was_behind = False

    def look(self) -> bool:
        """Take the time; returns whether it may be used. It may not while it is before what was seen earlier."""
        self.now = datetime.now(UTC)
        if self.now < self.newest - SLEW and not self._is_set_right():
            if not self._was_behind:
                logger.warning(
                    "the clock says %s, and said %s before: no old job is deleted until it is right. If it was wrong "
                    "before, delete %s", iso(self.now), iso(self.newest), self.path,
                )  # fmt: skip
            self._was_behind = True
            return False
        self._was_behind = False
        if self.now - self.newest > self.longest:
            self.gaps.append((self.newest, self.now))
            logger.warning(
                "the clock went from %s to %s between two looks: it was set, or no server ran. That time does not "
                "count for --retention", iso(self.newest), iso(self.now),
            )  # fmt: skip
            self._written = NEVER
        self.newest = max(self.newest, self.now)
        self._write()
        return True

    def age(self, since: datetime) -> timedelta | None:
        """The time that has passed since then, without gaps; None if that is in the future."""
        if since > self.now + SLEW:
            return None
        overlaps = (min(end, self.now) - max(begin, since) for begin, end in self.gaps)
        return self.now - since - sum((max(each, timedelta()) for each in overlaps), timedelta())

    def _is_set_right(self) -> bool:
        """Whether a clock that had been set forward was set back: the gap was none. It is forgotten then."""
        for index, (begin, end) in enumerate(self.gaps):
            if begin - SLEW <= self.now < end:
                del self.gaps[index:]
                self.newest = self.now
                self._written = NEVER
                return True
        return False

    def _write(self) -> None:
        if self.now - self._written < WRITE_EVERY:
            return
        with contextlib.suppress(OSError):  # on a full disk, the next look tries again
            write_json(
                self.path, {"newest": iso(self.newest), "gaps": [[iso(each) for each in gap] for gap in self.gaps]}
            )
            self._written = self.now


def _read(path: Path) -> tuple[datetime | None, list[tuple[datetime, datetime]]]:
    """The newest time and the gaps in the file; none if it is missing or damaged."""
    document = read_json(path) or {}
    try:
        gaps = [(datetime.fromisoformat(begin), datetime.fromisoformat(end)) for begin, end in document["gaps"]]
        return datetime.fromisoformat(document["newest"]), gaps
    except (KeyError, TypeError, ValueError):
        return None, []
