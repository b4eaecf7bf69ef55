"""The one record of every job: SQLite, each change a compare-and-set with its event in one transaction.

Holds no audio and no transcript. WAL with ``synchronous=FULL``: at NORMAL a commit may be lost with the power
(https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from asr_lightning.durable import faults
from asr_lightning.job_folder.spec import JobSpec
from asr_lightning.server.engine import states
from asr_lightning.server.engine.errors import KeyConflictError, NoSuchJobError
from asr_lightning.server.engine.records import Event, Job, now

VERSION = 1
BUSY_S = 10.0
SCHEMA = f"""
PRAGMA user_version={VERSION};
CREATE TABLE job (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  state TEXT NOT NULL,
  attempt INTEGER NOT NULL DEFAULT 0,
  auto_resumes INTEGER NOT NULL DEFAULT 0,
  source TEXT NOT NULL,
  spec TEXT NOT NULL,
  created_at TEXT NOT NULL,
  started_at TEXT, ended_at TEXT, device TEXT, resumed_from TEXT, error TEXT, dataset TEXT, metrics TEXT,
  artifacts TEXT NOT NULL DEFAULT '{{}}'
) STRICT;
CREATE UNIQUE INDEX one_job_a_device ON job (device) WHERE device IS NOT NULL;
CREATE INDEX job_state ON job (state);
CREATE TABLE event (
  job TEXT NOT NULL, seq INTEGER NOT NULL, time TEXT NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
  PRIMARY KEY (job, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE key (key TEXT PRIMARY KEY, body_hash TEXT NOT NULL, job TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""
JSON_FIELDS = ("error", "dataset", "metrics", "artifacts")
FIELDS = (
    "id", "state", "attempt", "auto_resumes", "source", "spec", "created_at", "started_at", "ended_at", "device",
    "resumed_from", "error", "dataset", "metrics", "artifacts",
)  # fmt: skip


class Store:
    """Every job in one SQLite file. Safe to use from several threads.

    Args:
        path: Of the file; made where it is missing.

    Raises:
        sqlite3.DatabaseError: It is no sound store; ``recovery`` makes a new one from the job folders.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # One to read and one to write: a commit waits for the disk, and no reader need wait with it.
        self._read_lock, self._write_lock = threading.Lock(), threading.Lock()
        with closing(self._connect()) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                connection.executescript(f"BEGIN; {SCHEMA} COMMIT;")
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"{path} is of version {version}, not {VERSION}")
            (sound,) = connection.execute("PRAGMA quick_check").fetchone()
            if sound != "ok":
                raise sqlite3.DatabaseError(f"{path} is damaged: {sound}")
        self._reader, self._writer = self._connect(), self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._read_lock:
            yield self._reader

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it or nothing."""
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                faults.point("store.commit")
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Close the file."""
        with self._read_lock, self._write_lock:
            self._reader.close()
            self._writer.close()

    def job(self, job_id: str) -> Job:
        """The job called ``job_id``.

        Raises:
            NoSuchJobError: There is none.
        """
        found = self._jobs("WHERE id = ?", [job_id])
        if not found:
            raise NoSuchJobError(f"no job {job_id!r}")
        return found[0]

    def jobs(self, wanted: frozenset[str] | None = None, limit: int = -1, after: str | None = None) -> list[Job]:
        """Newest first: those in a state of ``wanted``, older than the job ``after``."""
        where, values = ["1"], list[Any]()
        if wanted is not None:
            where.append(f"state IN ({', '.join('?' * len(wanted))})")
            values += sorted(wanted)
        if after is not None:
            where.append("number < (SELECT number FROM job WHERE id = ?)")
            values.append(after)
        return self._jobs(f"WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?", [*values, limit])

    def _jobs(self, clause: str, values: list[Any]) -> list[Job]:
        with self._reading() as connection:
            rows = connection.execute(f"SELECT {', '.join(FIELDS)} FROM job {clause}", values).fetchall()
        return [_job(dict(zip(FIELDS, row, strict=True))) for row in rows]

    def add(self, job: Job, key: str | None, body_hash: str, most: int) -> None:
        """Record a new job, unless ``most`` are active.

        Raises:
            sqlite3.IntegrityError: The key or the id exists.
            OverflowError: There is no room.
        """
        with self._writing() as connection:
            active = sorted(states.ACTIVE)
            query = f"SELECT count(*) FROM job WHERE state IN ({', '.join('?' * len(active))})"
            if connection.execute(query, active).fetchone()[0] >= most:
                raise OverflowError(f"{most} jobs are active")
            self._insert(connection, job)
            if key is not None:
                connection.execute("INSERT INTO key VALUES (?, ?, ?)", [key, body_hash, job.id])
            _record(connection, job.id, "state", {"state": job.state, "attempt": job.attempt})

    def restore(self, job: Job, key: str | None, body_hash: str) -> None:
        """Record a job that was read from its folder."""
        with self._writing() as connection:
            self._insert(connection, job)
            if key is not None:
                connection.execute("INSERT OR IGNORE INTO key VALUES (?, ?, ?)", [key, body_hash, job.id])
            _record(connection, job.id, "state", {"state": job.state, "attempt": job.attempt, "rebuilt": True})

    def _insert(self, connection: sqlite3.Connection, job: Job) -> None:
        values = [_column(name, getattr(job, name)) for name in FIELDS]
        marks = ", ".join("?" * len(FIELDS))
        connection.execute(f"INSERT INTO job ({', '.join(FIELDS)}) VALUES ({marks})", values)

    def keyed(self, key: str, body_hash: str | None = None) -> Job | None:
        """The job that was made with ``key``, by a request whose hash is ``body_hash`` where that is known.

        Raises:
            KeyConflictError: It was made by another request.
        """
        with self._reading() as connection:
            row = connection.execute("SELECT body_hash, job FROM key WHERE key = ?", [key]).fetchone()
        if row is None:
            return None
        if body_hash is not None and row[0] != body_hash:
            raise KeyConflictError("this Idempotency-Key was used for another request: take a new one")
        return self.job(row[1])

    def change(self, job: Job, state: str, through: str | None = None, **fields: Any) -> Job | None:
        """Move ``job`` to ``state`` if it is still as ``job`` says; None when the race was lost.

        Args:
            job: As it was read; its state and attempt are compared.
            state: One that may follow.
            through: A state between, told as an event in the same transaction.
            fields: Other columns to set with it.
        """
        path = [job.state, *([through] if through else []), state]
        for before, after in pairwise(path):
            if after not in states.NEXT[before]:
                raise ValueError(f"no job goes from {before} to {after}")
        changes = {"state": state, **fields}
        columns = ", ".join(f"{name} = ?" for name in changes)
        values = [_column(name, value) for name, value in changes.items()]
        with self._writing() as connection:
            query = f"UPDATE job SET {columns} WHERE id = ? AND state = ? AND attempt = ?"
            done = connection.execute(query, [*values, job.id, job.state, job.attempt]).rowcount
            for passed in path[1:] if done else []:
                data = {"state": passed, "attempt": fields.get("attempt", job.attempt)}
                error = fields.get("error")
                _record(connection, job.id, "state", data | ({"error": error} if error else {}))
        return self.job(job.id) if done else None

    def purge(self, job: Job) -> Job | None:
        """Move ``job`` to purged and forget all that was said of its data; None when the race was lost."""
        with self._writing() as connection:
            query = (
                "UPDATE job SET state = ?, error = NULL, dataset = NULL, metrics = NULL, artifacts = '{}', "
                "resumed_from = NULL WHERE id = ? AND state = ? AND attempt = ?"
            )
            done = connection.execute(query, [states.PURGED, job.id, job.state, job.attempt]).rowcount
            if done:
                # The last number stays, so that a client which has read so far gets this one.
                _record(connection, job.id, "purged", {"state": states.PURGED, "attempt": job.attempt})
                connection.execute("DELETE FROM event WHERE job = ? AND kind != 'purged'", [job.id])
        return self.job(job.id) if done else None

    def tell(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        """Add an event that changes no state."""
        with self._writing() as connection:
            _record(connection, job.id, kind, data)

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> list[Event]:
        """The events of a job later than ``after``, oldest first."""
        query = "SELECT seq, time, kind, data FROM event WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?"
        with self._reading() as connection:
            rows = connection.execute(query, [job_id, after, limit]).fetchall()
        return [Event(seq, time, kind, json.loads(data)) for seq, time, kind, data in rows]

    def shrink(self) -> None:
        """Write the log back into the file and drop it, so that no deleted byte stays in it."""
        with self._write_lock:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _record(connection: sqlite3.Connection, job_id: str, kind: str, data: dict[str, Any]) -> None:
    query = "INSERT INTO event SELECT ?, coalesce(max(seq), 0) + 1, ?, ?, ? FROM event WHERE job = ?"
    connection.execute(query, [job_id, now(), kind, json.dumps(data), job_id])


def _column(name: str, value: Any) -> Any:
    if name == "spec":
        return json.dumps(value.as_dict())
    return json.dumps(value) if name in JSON_FIELDS and value is not None else value


def _job(row: dict[str, Any]) -> Job:
    for name in JSON_FIELDS:
        row[name] = json.loads(row[name]) if row[name] is not None else None
    return Job(**{**row, "spec": JobSpec(**json.loads(row["spec"]))})
