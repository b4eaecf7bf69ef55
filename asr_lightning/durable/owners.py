"""Files that root makes in a folder of another user, such as a service's: they must stay readable to that user."""

from __future__ import annotations

import os
from pathlib import Path


def give_to_owner_of_folder(path: Path) -> None:
    """Give ``path`` to the owner of its folder if this process runs as root; without effect otherwise.

    Raises:
        OSError: The owner cannot be changed.
    """
    if os.geteuid() != 0:
        return
    folder = path.parent.stat()
    if path.lstat().st_uid != folder.st_uid:
        os.chown(path, folder.st_uid, folder.st_gid, follow_symlinks=False)
