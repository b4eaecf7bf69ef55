"""The lock of a run folder: while a run is alive, no other run renames or changes its folder."""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import sys
import time
from pathlib import Path
from types import TracebackType

from lightning.pytorch.utilities import rank_zero_only

from asr_lightning.durable.files import read_json
from asr_lightning.errors import OptionError
from asr_lightning.run.folder import first_free, set_aside

try:
    from asr_lightning.durable.locks import take_lock
except ImportError:  # Windows has no fcntl; there, two runs in one folder are not noticed
    take_lock = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

FILE_NAME = "run.lock"


class RunLock:
    """Holds a run folder for one run, until it is released or the process ends, however it ends.

    With several processes the first one holds it. As a context manager it releases the lock at the end.

    Args:
        run_dir: Folder of the run.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._descriptor: int | None = None

    @rank_zero_only
    def refuse_if_held(self) -> None:
        """Refuse a folder that a run has, before anything heavy is loaded. Nothing is written.

        Raises:
            OptionError: A run has the folder; the message says which.
        """
        if (self.run_dir / FILE_NAME).is_file():
            descriptor = self._taken()
            if descriptor is not None:
                os.close(descriptor)

    @rank_zero_only
    def take(self, new: bool) -> None:
        """Hold the folder, which is made if it does not exist.

        Args:
            new: Whether a new run begins, for which the folder of an earlier run is renamed.

        Raises:
            OptionError: A run has the folder; the message says which.
        """
        earlier = self._taken() if new and self.run_dir.is_dir() else None
        if new:
            set_aside(self.run_dir)  # held meanwhile, so that no other run renames it too
        self.run_dir.mkdir(parents=True, exist_ok=True)
        if earlier is not None and not (self.run_dir / FILE_NAME).exists():
            os.close(earlier)  # it belongs to the folder that was renamed
            earlier = None
        self._descriptor = earlier if earlier is not None else self._taken()
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, json.dumps(_this_process()).encode(), 0)

    def release(self) -> None:
        """Let other runs have the folder."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _taken(self) -> int | None:
        """A descriptor that holds the lock; None where the file system has no locks."""
        if take_lock is None:
            return None
        path = self.run_dir / FILE_NAME
        try:
            descriptor = take_lock(path)
        except OSError as error:
            logger.warning("%s cannot be locked (%s): start no second run in this folder", path, error.strerror)
            return None
        if descriptor is None:
            raise OptionError(
                f"{self.run_dir} is in use by {_holder(path)}: wait until that run has ended, or name another folder, "
                f"such as --run_dir {first_free(self.run_dir)}"
            )
        return descriptor


def _this_process() -> dict[str, object]:
    return {
        "process": os.getpid(),
        "host": platform.node(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join(sys.argv),
    }


def _holder(path: Path) -> str:
    """The run that holds the lock, in words."""
    holder = read_json(path)
    if not holder:
        return "another run"
    return "process {process} on {host}, a run since {started} ({command})".format_map(
        {name: holder.get(name, "unknown") for name in _this_process()}
    )
