"""The store of all jobs, in SQLite. Each change is a compare-and-set, in one transaction with its event.

The store holds no audio and no transcript. It uses WAL with ``synchronous=FULL``: with NORMAL, a power cut may lose a
commit (https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Unpack

from asr_lightning.durable import faults
from asr_lightning.server.engine import soundness, states
from asr_lightning.server.engine.errors import KeyConflictError, NoSuchJobError
from asr_lightning.server.engine.records import Event, Job, JobChanges, now
from asr_lightning.server.engine.rows import COLUMNS, Value, encoded, event_of_row, job_of_row, row_of, text_of

logger = logging.getLogger(__name__)

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
  artifacts TEXT NOT NULL DEFAULT '{{}}',
  owner TEXT
) STRICT;
CREATE UNIQUE INDEX one_job_a_device ON job (device) WHERE device IS NOT NULL;
CREATE INDEX job_state ON job (state);
CREATE TABLE event (
  job TEXT NOT NULL, seq INTEGER NOT NULL, time TEXT NOT NULL, kind TEXT NOT NULL, data TEXT NOT NULL,
  PRIMARY KEY (job, seq)
) STRICT, WITHOUT ROWID;
CREATE TABLE key (key TEXT PRIMARY KEY, body_hash TEXT NOT NULL, job TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""


class Store:
    """All jobs in one SQLite file. Several threads may use it.

    Args:
        path: The file, which is made if it is missing.

    Attributes:
        on_change: Called with the id of a job after each commit that gave it an event.

    Raises:
        sqlite3.DatabaseError: The file is damaged; ``recovery`` makes a new store from the job folders.
        HomeError: A newer version of this package wrote the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.on_change: Callable[[str], None] = lambda job_id: None
        self._unreadable: set[str] = set()
        # SQLite would make the file readable for others; its log gets the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        # One connection to read and one to write, so that no reader waits while a commit waits for the disk.
        self._read_lock, self._write_lock = threading.Lock(), threading.Lock()
        with closing(self._connect()) as connection:
            soundness.require(connection, path, SCHEMA, VERSION)
        self._reader, self._writer = self._connect(), self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            connection.text_factory = text_of
            connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA secure_delete=ON;")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection to read with."""
        with self._read_lock:
            yield self._reader

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction."""
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
        """Close both connections."""
        with self._read_lock, self._write_lock:
            self._reader.close()
            self._writer.close()

    def job(self, job_id: str) -> Job:
        """The job ``job_id``.

        Raises:
            NoSuchJobError: There is no such job.
        """
        jobs = self._jobs("WHERE id = ?", [job_id])
        if not jobs:
            raise NoSuchJobError(f"no job {job_id!r}")
        return jobs[0]

    def jobs(
        self, wanted: frozenset[str] | None = None, limit: int = -1, after: str | None = None, owner: str | None = None
    ) -> list[Job]:
        """The jobs in one of the states ``wanted``, newest first; only those of ``owner``, or older than ``after``."""
        where, values = ["1"], list[Value]()
        if owner is not None:
            where.append("owner = ?")
            values.append(owner)
        if wanted is not None:
            where.append(f"state IN ({_marks(wanted)})")
            values += sorted(wanted)
        if after is not None:
            # For a name, the job of another does not exist here either.
            where.append("number < (SELECT number FROM job WHERE id = ? AND (? IS NULL OR owner = ?))")
            values += [after, owner, owner]
        return self._jobs(f"WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?", [*values, limit])

    def _jobs(self, clause: str, values: Sequence[Value]) -> list[Job]:
        with self.reading() as connection:
            rows = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM job {clause}", values).fetchall()
        return [job for row in rows if (job := self._readable(row)) is not None]

    def _readable(self, row: sqlite3.Row) -> Job | None:
        try:
            return job_of_row(row)
        except (ValueError, TypeError) as error:
            if row["id"] not in self._unreadable:
                self._unreadable.add(row["id"])
                logger.error(
                    "job %s is left out, since its row in %s is damaged (%s): the next start reads it from its folder",
                    row["id"],
                    self.path,
                    error,
                )
            return None

    def add(self, job: Job, key: str | None, body_hash: str, max_active: int) -> None:
        """Record a new job, unless ``max_active`` jobs are active.

        Raises:
            sqlite3.IntegrityError: The key or the id exists already.
            OverflowError: Too many jobs are active.
        """
        with self.writing() as connection:
            active = sorted(states.ACTIVE)
            query = f"SELECT count(*) FROM job WHERE state IN ({_marks(active)})"
            if connection.execute(query, active).fetchone()[0] >= max_active:
                raise OverflowError(f"{max_active} jobs are active")
            self._insert(connection, job)
            if key is not None:
                connection.execute("INSERT INTO key VALUES (?, ?, ?)", [key, body_hash, job.id])
            _record(connection, job.id, "state", {"state": job.state, "attempt": job.attempt})
        self.on_change(job.id)

    def _insert(self, connection: sqlite3.Connection, job: Job) -> None:
        values = list(row_of(job).values())
        connection.execute(f"INSERT INTO job ({', '.join(COLUMNS)}) VALUES ({_marks(COLUMNS)})", values)

    def keyed(self, key: str, body_hash: str | None = None) -> Job | None:
        """The job that a request with the Idempotency-Key ``key`` made, or None.

        Args:
            key: The key.
            body_hash: Hash of the current request; None if it is not known.

        Raises:
            KeyConflictError: The request that made the job has another hash.
        """
        with self.reading() as connection:
            row = connection.execute("SELECT body_hash, job FROM key WHERE key = ?", [key]).fetchone()
        if row is None:
            return None
        if body_hash is not None and row[0] != body_hash:
            raise KeyConflictError("this Idempotency-Key was used for another request: take a new one")
        return self.job(row[1])

    def change(self, job: Job, state: str, through: str | None = None, **changes: Unpack[JobChanges]) -> Job | None:
        """Move ``job`` to ``state``; returns None, and changes nothing, if the job is no longer as it was read.

        Args:
            job: The job as it was read; its state and attempt are compared with the store.
            state: The new state, which must be allowed to follow.
            through: A state in between, whose event is recorded in the same transaction.
            changes: Other columns to set.
        """
        path = [job.state, *([through] if through else []), state]
        for before, after in pairwise(path):
            if after not in states.NEXT[before]:
                raise ValueError(f"no job goes from {before} to {after}")
        columns = ", ".join(f"{name} = ?" for name in ("state", *changes))
        values = [state, *(encoded(name, value) for name, value in changes.items())]
        with self.writing() as connection:
            query = f"UPDATE job SET {columns} WHERE id = ? AND state = ? AND attempt = ?"
            done = connection.execute(query, [*values, job.id, job.state, job.attempt]).rowcount
            for entered in path[1:] if done else []:
                data: dict[str, object] = {"state": entered, "attempt": changes.get("attempt", job.attempt)}
                if error := changes.get("error"):
                    data["error"] = error.as_dict()
                _record(connection, job.id, "state", data)
        return self._changed(job.id) if done else None

    def _changed(self, job_id: str) -> Job:
        self.on_change(job_id)
        return self.job(job_id)

    def purge(self, job: Job) -> Job | None:
        """Move ``job`` to purged and erase what is stored about its data; None if it is no longer as it was read."""
        with self.writing() as connection:
            query = (
                "UPDATE job SET state = ?, error = NULL, dataset = NULL, metrics = NULL, artifacts = '{}', "
                "resumed_from = NULL, device = NULL WHERE id = ? AND state = ? AND attempt = ?"
            )
            done = connection.execute(query, [states.PURGED, job.id, job.state, job.attempt]).rowcount
            if done:
                # The numbers of events go on, so that a client which has read all earlier ones gets this one.
                _record(connection, job.id, "purged", {"state": states.PURGED, "attempt": job.attempt})
                connection.execute("DELETE FROM event WHERE job = ? AND kind != 'purged'", [job.id])
                connection.execute("DELETE FROM key WHERE job = ?", [job.id])  # its text is the client's
        return self._changed(job.id) if done else None

    def record(self, job: Job, kind: str, data: Mapping[str, object]) -> None:
        """Record an event that changes no state."""
        with self.writing() as connection:
            _record(connection, job.id, kind, data)
        self.on_change(job.id)

    def events(self, job_id: str, after: int = 0, limit: int = 500) -> list[Event]:
        """The events of a job with a number above ``after``, oldest first. A damaged one is left out."""
        query = "SELECT seq, time, kind, data FROM event WHERE job = ? AND seq > ? ORDER BY seq LIMIT ?"
        with self.reading() as connection:
            rows = connection.execute(query, [job_id, after, limit]).fetchall()
        return [event for row in rows if (event := event_of_row(row)) is not None]

    def newest_time(self) -> str | None:
        """The newest time at which a job was made, started or ended; None if there is no job."""
        query = "SELECT max(max(created_at, coalesce(started_at, ''), coalesce(ended_at, ''))) FROM job"
        with self.reading() as connection:
            (newest,) = connection.execute(query).fetchone()
        return newest

    def shrink(self) -> None:
        """Write the write-ahead log into the file and truncate it, so that no deleted byte stays in it."""
        with self._write_lock:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _record(connection: sqlite3.Connection, job_id: str, kind: str, data: Mapping[str, object]) -> None:
    query = "INSERT INTO event SELECT ?, coalesce(max(seq), 0) + 1, ?, ?, ? FROM event WHERE job = ?"
    connection.execute(query, [job_id, now(), kind, json.dumps(data), job_id])


def _marks(values: Collection[str]) -> str:
    """Placeholders for ``values`` in a statement."""
    return ", ".join("?" * len(values))
