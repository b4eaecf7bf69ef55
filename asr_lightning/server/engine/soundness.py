"""Whether a SQLite file is a whole job store of this version."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from asr_lightning.server.engine.errors import HomeError


def require(connection: sqlite3.Connection, path: Path, schema: str, version: int) -> None:
    """Require a sound store with the tables, columns and indexes of ``schema``, which an empty file gets.

    Raises:
        sqlite3.DatabaseError: The file is damaged, or another database.
        HomeError: A newer version of this package wrote it.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > version:
        raise HomeError(
            f"{path} is of version {found}, which a newer version of this package wrote: start that version, or move "
            f"{path.name}* out of {path.parent}, and the jobs are read from their folders"
        )
    if found == 0 and not _parts(connection):
        connection.executescript(f"BEGIN; {schema} COMMIT;")
    elif found != version:
        raise sqlite3.DatabaseError(f"it is of version {found}, not {version}")
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    with closing(sqlite3.connect(":memory:")) as model:
        model.executescript(schema)
        if missing := _parts(model) - _parts(connection):
            raise sqlite3.DatabaseError(f"it has no {' '.join(sorted(missing)[0])}")
        _complete(connection, model)


def _complete(connection: sqlite3.Connection, model: sqlite3.Connection) -> None:
    """Add the optional columns that later releases of the same version have."""
    for kind, table in sorted(_parts(model)):
        present = _columns(connection, table) if kind == "table" else {}
        for column, (kind_of_value, is_required) in (_columns(model, table) if kind == "table" else {}).items():
            if column in present:
                continue
            if is_required:
                raise sqlite3.DatabaseError(f"it has no column {column} in table {table}")
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind_of_value}")


def _columns(connection: sqlite3.Connection, table: str) -> dict[str, tuple[str, bool]]:
    """Type of each column of a table, and whether it must have a value."""
    query = 'SELECT name, type, "notnull" OR pk FROM pragma_table_info(?)'
    return {name: (kind, bool(required)) for name, kind, required in connection.execute(query, [table])}


def _parts(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    """The kind and the name of each table and index."""
    query = "SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite%'"
    return {(kind, name) for kind, name in connection.execute(query)}
