"""``history.jsonl``: the events of a job and what each changed in its record. A lost store is rebuilt from it.

The server adds a line after each commit to its store. The file is then as new as the store, or a crash older.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from asr_lightning.durable import journal
from asr_lightning.durable.files import sync_folder
from asr_lightning.job_folder import layout

LARGEST = 2**62
"""Numbers of events stay below it: the store could not hold much larger ones."""


@dataclass(frozen=True)
class Step:
    """One event of a job.

    Attributes:
        seq: Number of the event.
        time: UTC, ISO 8601.
        kind: What kind of event it is.
        data: What clients get of it.
        changed: The fields of the job's record that have changed since the step before, with their new values.
    """

    seq: int
    time: str
    kind: str
    data: Mapping[str, object]
    changed: Mapping[str, object]


@dataclass(frozen=True)
class History:
    """What is known of a job's past.

    Attributes:
        steps: Its events, in order.
        whole: Whether none before the last is missing since the store was last rebuilt. Those after it may be.
    """

    steps: tuple[Step, ...]
    whole: bool

    @property
    def last(self) -> int:
        """Number of the last event; 0 if there is none."""
        return self.steps[-1].seq if self.steps else 0

    @property
    def record(self) -> dict[str, object]:
        """The job's record after the last step."""
        record: dict[str, object] = {}
        for step in self.steps:
            record.update(step.changed)
        return record

    @classmethod
    def read(cls, folder: Path) -> History:
        """The history of the job in ``folder``, as far as it can be read."""
        objects, whole = journal.read(folder / layout.HISTORY)
        steps = {step.seq: step for entry in objects if (step := _step(entry)) is not None}
        ordered = tuple(steps[number] for number in sorted(steps))
        return cls(ordered, whole and len(steps) == len(objects) and _is_unbroken(ordered))


def append(folder: Path, steps: Iterable[Step]) -> None:
    """Add steps to the history of the job in ``folder``; they are on the disk when this returns.

    Raises:
        OSError: They cannot be written.
    """
    journal.append(folder / layout.HISTORY, map(asdict, steps))


def rewrite(folder: Path, steps: Iterable[Step]) -> None:
    """Replace the history of the job in ``folder``. What was in its place is kept beside it.

    Raises:
        OSError: It cannot be written.
    """
    path, suffix = folder / layout.HISTORY, secrets.token_hex(4)
    fresh = path.with_name(f".{path.name}.{suffix}")
    journal.append(fresh, map(asdict, steps))
    if os.path.lexists(path):
        path.rename(path.with_name(f"{path.name}.damaged.{suffix}"))
    fresh.rename(path)
    sync_folder(folder)


def _step(entry: Mapping[str, object]) -> Step | None:
    seq, data, changed = entry.get("seq"), entry.get("data"), entry.get("changed")
    if not isinstance(seq, int) or not 0 < seq < LARGEST or not isinstance(data, dict) or not isinstance(changed, dict):
        return None
    return Step(seq, str(entry.get("time")), str(entry.get("kind")), data, changed)


def _is_unbroken(steps: tuple[Step, ...]) -> bool:
    """Whether no number is left out since the store was last rebuilt: that step has the whole record."""
    rebuilt = [index for index, step in enumerate(steps) if step.data.get("rebuilt")]
    rest = steps[rebuilt[-1] :] if rebuilt else steps
    first = rest[0].seq if rebuilt else 1
    return [step.seq for step in rest] == list(range(first, first + len(rest)))
