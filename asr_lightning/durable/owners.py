"""Files that root makes in a folder of another user, such as a service's: they must stay readable to that user."""

from __future__ import annotations

import os
from pathlib import Path


def give_to_owner_of_folder(path: Path) -> None:
    """Give ``path`` to the owner of its folder if this process runs as root; without effect otherwise.

    Raises:
        OSError: The owner cannot be changed.
    """
    keep_owner(path.parent.resolve(), path)


def keep_owner(source: Path, target: Path) -> None:
    """Give ``target`` to the owner of ``source`` if this process runs as root; without effect otherwise.

    Raises:
        OSError: The owner cannot be changed.
    """
    if os.geteuid() != 0:
        return
    owner = source.lstat()
    if target.lstat().st_uid != owner.st_uid:
        os.chown(target, owner.st_uid, owner.st_gid, follow_symlinks=False)
