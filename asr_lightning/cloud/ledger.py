"""What this machine has rented: one small file for each rental, written before each step that leaves something behind.

A client that is killed leaves what the next one needs to delete its data. The lock beside the file is held as long as a
client works on the rental; the kernel frees it with the process. No recording and no transcript is ever in it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from asr_lightning.durable.files import read_json, write_json
from asr_lightning.durable.ids import is_id, new_id
from asr_lightning.durable.locks import is_held, take_lock
from asr_lightning.job_folder.ending import Metrics, metrics_of
from asr_lightning.job_folder.failure import Failure

HOME, DEFAULT_HOME = "ASR_CLOUD_HOME", "~/.asr_lightning/cloud"


def home() -> Path:
    """``$ASR_CLOUD_HOME``, private to this user."""
    return Path(os.environ.get(HOME) or DEFAULT_HOME).expanduser().absolute()


@dataclass
class Record:
    """One rental.

    Attributes:
        id: Of the rental, its volume and its job.
        provider, gpu: Where, and on what.
        price: USD an hour, as the provider listed it.
        spec: Of ``JobSpec.as_dict``.
        max_seconds: Ceiling of the training.
        output: Folder for the result.
        step: What the client does or did last: preparing, creating, uploading, spawning, running, downloading,
            deleting, ended.
        volume: Its name, from the moment at which it may exist, until it is known to be gone.
        call: Id of the call at the provider, once it is known.
        detached: Goes on without a client.
        created_at, spawned_at: Seconds since the epoch.
        seconds: The training took so long.
        outcome: succeeded, failed or cancelled; None until it is known.
        error: Why not.
        metrics: WER before and after, and the like.
    """

    id: str
    provider: str
    gpu: str
    price: float
    spec: dict[str, Any]
    max_seconds: float
    output: str
    step: str = "preparing"
    volume: str | None = None
    call: str | None = None
    detached: bool = False
    created_at: float = 0.0
    spawned_at: float | None = None
    seconds: float | None = None
    outcome: str | None = None
    error: Failure | None = None
    metrics: Metrics | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left anywhere but this record, and its result."""
        return self.step == "ended" and self.volume is None

    @property
    def cost(self) -> float:
        """USD for the seconds that are known, by the list price."""
        return self.price * (self.seconds or 0.0) / 3600


class Ledger:
    """The records under ``path``."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home()
        for name in ("rentals", "packed"):
            (self.path / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.chmod(0o700)

    def open(self, **given: Any) -> Entry:
        """A new record, whose lock is held."""
        rental = new_id()
        lock = self._lock(rental)
        assert lock is not None, "ids are random"
        entry = Entry(self, Record(id=rental, **given), lock)
        entry.save()
        return entry

    def take(self, rental: str) -> Entry | None:
        """A record to work on, whose lock is held; None while another client works on it.

        Raises:
            ValueError: There is no such rental.
        """
        self.record(rental)
        lock = self._lock(rental)
        return None if lock is None else Entry(self, self.record(rental), lock)

    def record(self, rental: str) -> Record:
        """A record to look at.

        Raises:
            ValueError: There is no such rental.
        """
        found = read_json(self._file(rental)) if is_id(rental) else None
        if found is None:
            raise ValueError(f"there is no rental {rental!r} on this machine: cloud status lists them")
        return _record_of(found)

    def records(self) -> list[Record]:
        """All of them, the oldest first."""
        found = (read_json(path) for path in (self.path / "rentals").glob("*.json"))
        return sorted((_record_of(each) for each in found if each), key=lambda record: (record.created_at, record.id))

    def is_attended(self, rental: str) -> bool:
        """Whether a client works on it now."""
        return is_held(self._lock_file(rental))

    def packed(self, rental: str) -> Path:
        """Folder of the recordings that are being packed and checked."""
        return self.path / "packed" / rental

    def _file(self, rental: str) -> Path:
        return self.path / "rentals" / f"{rental}.json"

    def _lock_file(self, rental: str) -> Path:
        return self.path / "rentals" / f"{rental}.lock"

    def _lock(self, rental: str) -> int | None:
        return take_lock(self._lock_file(rental))


class Entry:
    """A record whose lock this process holds."""

    def __init__(self, ledger: Ledger, record: Record, lock: int) -> None:
        self.ledger, self.record, self._lock = ledger, record, lock

    def save(self, **changes: Any) -> None:
        """Change the record, on the disk when this returns."""
        for name, value in changes.items():
            setattr(self.record, name, value)
        write_json(self.ledger._file(self.record.id), asdict(self.record))

    @property
    def packed(self) -> Path:
        """See ``Ledger.packed``."""
        return self.ledger.packed(self.record.id)

    def forget(self) -> None:
        """Remove the record."""
        for path in (self.ledger._file(self.record.id), self.ledger._lock_file(self.record.id)):
            path.unlink(missing_ok=True)

    def unpack(self) -> None:
        """Remove the packed recordings from this machine."""
        shutil.rmtree(self.packed, ignore_errors=True)

    def close(self) -> None:
        """Let others work on it."""
        os.close(self._lock)


def _record_of(found: Mapping[str, Any]) -> Record:
    """Entries that a later version added are left out."""
    known = {each.name for each in fields(Record)}
    record = Record(**{name: value for name, value in found.items() if name in known})
    error = found.get("error")
    return replace(record, error=None if error is None else Failure.from_json(error), metrics=metrics_of(found))
