"""What runs on Modal. Imported there by its name, so it stays a plain function of a module."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import modal

MOUNT = "/volume"
OPEN_FILES = "open files preventing the operation"
"""Of Modal's message; only the mounting anew, which follows the commit, can say so."""
PACKAGE_IN = Path(__file__).parents[2]
"""The folder of this package: Modal puts it on its own process' path alone."""


def commit(volume: modal.Volume) -> None:
    """Make what was written last. Where Modal mounts anew after a commit, it cannot while the trainer holds files open.

    Raises:
        OSError: Modal has not committed.
    """
    try:
        volume.commit()
    except Exception as error:
        if OPEN_FILES not in str(error):
            raise OSError(f"Modal did not commit the volume: {error}") from error


def train(request: dict[str, Any], volume: str) -> str:
    """Train on the mounted volume.

    Modal calls it again with the same arguments after a preemption; ``remote.train`` goes on from what is committed.

    Args:
        request: Of ``Request.as_dict``.
        volume: The name of what is mounted.

    Returns:
        What went wrong, or an empty string. Nothing is raised: what the client sees raised is then Modal's own.
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
