"""Decide which member names are accepted, ignored or refused. No path is ever built from a name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from asr_lightning.data.audio import AUDIO_SUFFIXES
from asr_lightning.data.manifest import CSV_NAMES
from asr_lightning.server.intake.limits import IntakeLimits
from asr_lightning.server.intake.verdict import IntakeError, printable

Kind = Literal["audio", "text", "csv", "other"]
FLAT = "pack the files without their folder: tar -czvf data.tar.gz -C folder ."


@dataclass(frozen=True)
class Name:
    """An accepted member name.

    Attributes:
        folder: The one folder around the file, or "".
        base: The name without the folder.
        kind: The kind of file, by its suffix.
    """

    folder: str
    base: str
    kind: Kind

    @property
    def stem_key(self) -> str:
        """A key that is equal for a recording and its transcript."""
        return same_file_key(self.base.rpartition(".")[0])


def same_file_key(name: str) -> str:
    """A key that is equal for names of one file on a disk that ignores case or Unicode forms (macOS, Windows)."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
    return unicodedata.normalize("NFC", folded)


def accepted_name(raw: str, limits: IntakeLimits) -> Name | None:
    """The accepted name ``raw``; None for files that packers add: ``./``, ``._*``, ``.DS_Store``, ``__MACOSX``.

    Raises:
        IntakeError: The name could lead out of the archive, or cannot be a file's name.
    """
    problem = _problem(raw, limits)
    if problem:
        raise IntakeError("dataset_invalid", f"data: member '{printable(raw, 80)}' {problem}; rename it and pack again")
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if not parts or "__MACOSX" in parts or parts[-1].startswith("._") or parts[-1] == ".DS_Store":
        return None
    if len(parts) > 2:
        raise IntakeError("dataset_invalid", f"data: member '{printable(raw, 80)}' lies in nested folders; {FLAT}")
    return Name("/".join(parts[:-1]), parts[-1], _kind(parts[-1]))


def require_distinct(names: Iterable[Name]) -> None:
    """Require that no two names are one file on some disks, and that all files are in one folder.

    Raises:
        IntakeError: Two names are in conflict; the message has both.
    """
    names_by_key: dict[str, Name] = {}
    folders: dict[str, Name] = {}
    for name in names:
        first = names_by_key.setdefault(same_file_key(name.base), name)
        folders.setdefault(name.folder, name)
        if len(folders) > 1:
            shown = "' and '".join(printable(f"{folder or '.'}/{example.base}") for folder, example in folders.items())
            raise IntakeError("dataset_invalid", f"data: '{shown}' lie in different folders; {FLAT}")
        if first is not name:
            conflict = (
                "is there twice"
                if first.base == name.base
                else f"is the same as '{printable(first.base)}' on many disks"
            )
            raise IntakeError("dataset_invalid", f"data: member '{printable(name.base)}' {conflict}; keep one of them")


def _problem(raw: str, limits: IntakeLimits) -> str | None:
    parts = raw.split("/")
    if not raw:
        return "has no name"
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in raw):
        return "has control characters in its name"
    if "\\" in raw:
        return "has a backslash in its name"
    if raw.startswith("/") or re.match(r"[A-Za-z]:", raw):
        return "has an absolute path"
    if ".." in parts:
        return "leads out of the archive by '..'"
    if max(len(part.encode()) for part in parts) > limits.name_bytes or len(raw.encode()) > 4 * limits.name_bytes:
        return f"has a name of over {limits.name_bytes} bytes"
    return None


def _kind(base: str) -> Kind:
    if base in CSV_NAMES.values():
        return "csv"
    suffix = f".{base.rpartition('.')[2]}".lower() if "." in base.lstrip(".") else ""
    if base.startswith("."):
        return "other"
    if suffix in AUDIO_SUFFIXES:
        return "audio"
    return "text" if suffix == ".txt" else "other"
