"""The function that runs on Modal. Modal imports it by its name, so it must stay a plain function of a module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import modal

    from asr_lightning.cloud.provider import RequestDocument

MOUNT = "/volume"
OPEN_FILES = "open files preventing the operation"
"""Part of an error message of Modal. It comes from remounting the volume, which follows a successful commit."""
PACKAGE_IN = Path(__file__).parents[2]
"""Folder that holds this package. Modal adds it to the path of its own process, but not to that of child processes."""


def commit(volume: modal.Volume) -> None:
    """Commit what was written. Modal may then remount the volume, and its failure while files are open is ignored.

    Raises:
        OSError: Modal did not commit the volume.
    """
    try:
        volume.commit()
    except Exception as error:
        if OPEN_FILES not in str(error):
            raise OSError(f"Modal did not commit the volume: {error}") from error


def train(request: RequestDocument, volume: str) -> str:
    """Train on the mounted volume.

    Modal calls it again with the same arguments after a preemption; ``remote.train`` then continues from the last
    commit.

    Args:
        request: The request, as ``Request.as_dict`` returns it.
        volume: Name of the mounted volume.

    Returns:
        What went wrong, or an empty string. Nothing is raised, so that any exception that the client sees is Modal's.
    """
    import modal

    from asr_lightning.cloud import remote

    os.environ["PYTHONPATH"] = os.pathsep.join([str(PACKAGE_IN), *filter(None, [os.environ.get("PYTHONPATH")])])
    mounted = modal.Volume.from_name(volume)
    try:
        remote.train(Path(MOUNT), request, lambda: commit(mounted))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
