"""Names of files and folders in a server's home."""

from __future__ import annotations

STORE = "state.db"
STORE_FILES = (STORE, f"{STORE}-wal", f"{STORE}-shm")
"""What SQLite keeps of the store; the three belong together."""
DAMAGED_STORE = f"{STORE}.damaged"
"""Beginning of the names of stores that were set aside."""
LOCK = "server.lock"
RESERVE = "reserve"
