"""Records what this machine has rented: a small file for each rental, written before each step that creates something.

If a client is killed, the next one finds in the record what it has to delete. A client holds the lock beside the file
while it works on the rental; the kernel frees it when the process ends. No record has recordings or transcripts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from asr_lightning.cloud.provider import SpecDocument
from asr_lightning.durable.files import read_json, write_json
from asr_lightning.durable.ids import is_id, new_id
from asr_lightning.durable.locks import is_held, take_lock
from asr_lightning.job_folder.ending import Metrics, metrics_of
from asr_lightning.job_folder.failure import Failure

HOME, DEFAULT_HOME = "ASR_CLOUD_HOME", "~/.asr_lightning/cloud"


def home() -> Path:
    """Folder of the records, which only this user can read: ``$ASR_CLOUD_HOME``, or the default."""
    return Path(os.environ.get(HOME) or DEFAULT_HOME).expanduser().absolute()


@dataclass
class Record:
    """One rental.

    Attributes:
        id: Id of the rental, which its volume and its job share.
        provider: Name of the provider.
        gpu: The provider's name of the GPU.
        price: List price in USD an hour.
        spec: What is trained, as JSON.
        max_seconds: Time limit of the training.
        output: Folder for the result.
        step: What the client is doing, or did last: preparing, creating, uploading, spawning, running, downloading,
            deleting or ended.
        volume: Name of the volume, from the moment at which it may exist until it is known to be deleted.
        call: The provider's id of the call, once it is known.
        detached: Whether the training runs without a client.
        created_at: Time at which the rental began, in seconds since the epoch.
        spawned_at: Time at which the training was started, in seconds since the epoch.
        seconds: Time that the training has taken.
        outcome: succeeded, failed or cancelled; None until it is known.
        error: Why the training did not succeed.
        metrics: Scores such as WER before and after; None unless the training succeeded.
    """

    id: str
    provider: str
    gpu: str
    price: float
    spec: SpecDocument
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
        """Whether nothing of the rental is left but this record and the result."""
        return self.step == "ended" and self.volume is None

    @property
    def cost(self) -> float:
        """Cost in USD so far, by the list price."""
        return self.price * (self.seconds or 0.0) / 3600


class Ledger:
    """The records in the folder ``path``, by default ``home()``."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home()
        for name in ("rentals", "packed"):
            (self.path / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.chmod(0o700)

    def open(self, **fields: Any) -> Entry:
        """Write a new record with these fields, and hold its lock."""
        rental = new_id()
        lock = self._lock(rental)
        assert lock is not None, "ids are random"
        entry = Entry(self, Record(id=rental, **fields), lock)
        entry.save()
        return entry

    def take(self, rental: str) -> Entry | None:
        """Take the lock of a record to work on it; None while another client works on it.

        Raises:
            ValueError: There is no such rental.
        """
        self.record(rental)
        lock = self._lock(rental)
        return None if lock is None else Entry(self, self.record(rental), lock)

    def record(self, rental: str) -> Record:
        """Read a record, without its lock.

        Raises:
            ValueError: There is no such rental.
        """
        document = read_json(self._file(rental)) if is_id(rental) else None
        if document is None:
            raise ValueError(f"there is no rental {rental!r} on this machine: cloud status lists them")
        return _record_of(document)

    def records(self) -> list[Record]:
        """All records, the oldest first."""
        documents = (read_json(path) for path in (self.path / "rentals").glob("*.json"))
        records = (_record_of(document) for document in documents if document)
        return sorted(records, key=lambda record: (record.created_at, record.id))

    def is_attended(self, rental: str) -> bool:
        """Whether a client works on a rental now."""
        return is_held(self._lock_file(rental))

    def packed(self, rental: str) -> Path:
        """Folder in which the recordings of a rental are packed and inspected."""
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
        """Change fields of the record; the change is on the disk when this returns."""
        for name, value in changes.items():
            setattr(self.record, name, value)
        write_json(self.ledger._file(self.record.id), asdict(self.record))

    @property
    def packed(self) -> Path:
        """Folder in which the recordings of the rental are packed and inspected."""
        return self.ledger.packed(self.record.id)

    def forget(self) -> None:
        """Delete the record."""
        for path in (self.ledger._file(self.record.id), self.ledger._lock_file(self.record.id)):
            path.unlink(missing_ok=True)

    def unpack(self) -> None:
        """Delete the packed recordings from this machine."""
        shutil.rmtree(self.packed, ignore_errors=True)

    def close(self) -> None:
        """Free the lock, so that other clients can work on the rental."""
        os.close(self._lock)


def _record_of(document: Mapping[str, Any]) -> Record:
    """Entries that a later version added are left out."""
    known = {each.name for each in fields(Record)}
    record = Record(**{name: value for name, value in document.items() if name in known})
    error = document.get("error")
    return replace(record, error=None if error is None else Failure.from_json(error), metrics=metrics_of(document))
