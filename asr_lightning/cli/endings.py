"""What a command prints in the place of a traceback when it cannot go on, and its exit status. Loads nothing heavy."""

from __future__ import annotations

import os
import select
import signal
import sys
from typing import NamedTuple

from asr_lightning.errors import missing_extra

BROKEN_PIPE = 141
"""128 and the number of SIGPIPE, which would have ended a program in another language; Windows has no such signal."""


class Ending(NamedTuple):
    """The end of a command.

    Attributes:
        message: Text for stderr.
        status: Exit status.
    """

    message: str
    status: int


def of(error: BaseException) -> Ending | None:
    """The ending for the exception that ended a command; None for an error of ours, whose traceback is needed."""
    from asr_lightning.cli.stopping import is_sigterm
    from asr_lightning.job_folder import failure

    note = "".join(f" {each}." for each in getattr(error, "__notes__", ()))
    if isinstance(error, KeyboardInterrupt):
        return Ending(f"\n{str(error) or 'stopped'}\n", 128 + signal.SIGINT)
    if is_sigterm(error):
        return Ending(f"stopped by SIGTERM.{note}\n", 128 + signal.SIGTERM)
    if isinstance(error, BrokenPipeError) and _output_is_closed():
        return Ending("", BROKEN_PIPE)
    if isinstance(error, SystemExit):
        return None
    if full := failure.full_disk_of(error):
        return _refused(f"the disk is full ({_first_line(full)}): free some space.{note}")
    if lack := failure.lack_of_memory_of(error):
        return _refused(
            f"the memory is used up ({_first_line(lack)}): take smaller batches, such as --data.batch_size 4, or in "
            "predict --batch_size 1; or take a smaller model, which python -m asr_lightning models lists by size"
        )
    error = missing_extra(error, "this command") or error
    return _refused(str(error)) if isinstance(error, ValueError | OSError) else None


def _refused(message: str) -> Ending:
    return Ending(f"error: {message}\n(ASR_LIGHTNING_DEBUG=1 shows where)\n", 2)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _output_is_closed() -> bool:
    """Whether nobody reads what this program prints, as after ``| head``; its remaining output is then thrown away."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass
    else:
        if not _has_lost_its_reader():
            return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # the interpreter flushes once more at its end
    os.close(nowhere)
    return True


def _has_lost_its_reader() -> bool:
    """Whether stdout is a pipe that nobody reads. With PYTHONUNBUFFERED there is nothing left to flush."""
    try:
        descriptor = sys.stdout.fileno()
    except OSError:  # no file, as in a notebook
        return False
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
