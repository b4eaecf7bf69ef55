"""Whether a folder may become the server's home. A server deletes files in its home, so it takes no other folder."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from asr_lightning.durable.files import read_json, write_json
from asr_lightning.server.engine import names
from asr_lightning.server.engine.errors import HomeError

MARKER = "asr_home.json"
"""The file by which a server knows its home again."""
PURPOSE = "home of a training server of asr_lightning"
FOLDERS = ("uploads", "locks", "jobs", "trash", "quarantine")
NOBODYS = frozenset({"lost+found", ".DS_Store"})
"""What a new file system or a file manager puts into a folder."""
WRITABLE_BY_OTHERS = 0o022


def claim(path: Path) -> None:
    """Make ``path`` the home of this server, or find that it is one. Modes and files of others are left alone.

    Raises:
        HomeError: The folder is in use by something else, others may write to it, or a folder in it is a link.
        OSError: It cannot be written.
    """
    if not path.exists():
        path.mkdir(parents=True, mode=0o700, exist_ok=True)
    if not _is_marked(path):
        found = sorted(entry.name for entry in path.iterdir() if entry.name not in NOBODYS and not _is_ours(entry))
        if found and not is_home(path):  # another server that starts now may have marked it meanwhile
            raise HomeError(
                f"{path} holds {_few(found)}, and no {MARKER}: it is not the home of a server, which would delete "
                f"files in it. Name a folder of its own, such as --home {path / 'asr_lightning'}"
            )
        if not found and path.stat().st_mode & WRITABLE_BY_OTHERS:
            raise HomeError(
                f"others may write to {path}, and a home holds recordings: "
                f"name a folder of its own, such as --home {path / 'asr_lightning'}"
            )
    for name in FOLDERS:
        if (path / name).is_symlink():
            raise HomeError(
                f"{path / name} is a link, and a server deletes files in its home: put a folder in its place, "
                "or name another --home, which may be a link as a whole"
            )
    if not _is_marked(path):
        write_json(path / MARKER, {"purpose": PURPOSE, "version": 1})
    for name in FOLDERS:
        (path / name).mkdir(exist_ok=True, mode=0o700)


def is_home(path: Path) -> bool:
    """Whether ``path`` is the home of a server, this or an earlier version of it."""
    return _is_marked(path) or _is_home_of_earlier_version(path)


def _is_marked(path: Path) -> bool:
    return (path / MARKER).is_file() and (read_json(path / MARKER) or {}).get("purpose") == PURPOSE


def _is_ours(entry: Path) -> bool:
    """Whether it is a half-written marker of a start that was killed."""
    return entry.name.startswith(f".{MARKER}.")


def _is_home_of_earlier_version(path: Path) -> bool:
    """Whether a server that wrote no marker used ``path``: its folders and lock are there, and no other database."""
    folders = all((path / name).is_dir() and not (path / name).is_symlink() for name in FOLDERS[:-1])
    return folders and (path / names.LOCK).is_file() and _is_no_strangers_database(path / names.STORE)


def _is_no_strangers_database(store: Path) -> bool:
    """Whether the file can be a job store: one that is lost or damaged can be."""
    if not store.is_file():
        return True
    try:
        with closing(sqlite3.connect(f"{store.as_uri()}?mode=ro", uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.DatabaseError:
        return True
    return not tables or "job" in tables


def _few(found: list[str]) -> str:
    return ", ".join(found[:3]) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
