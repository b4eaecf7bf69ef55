"""Deletes everything that a rental left behind: when it ends, or at the next start if its client was killed."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from asr_lightning.cloud.ledger import Entry, Ledger
from asr_lightning.cloud.provider import Provider
from asr_lightning.durable import faults
from asr_lightning.job_folder.failure import Failure

TRIES = 3
PAUSE_S = 1.0
SIGNALS = tuple(signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that stop a client. Windows has no SIGHUP."""
Say = Callable[[str], None]


class StoppedError(KeyboardInterrupt):
    """A signal stops this client.

    Attributes:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """Handler of the signals that stop this client.

    The first signal raises ``StoppedError``. Once ``clearing`` is set, signals only print why the client still runs.
    """

    def __init__(self, say: Say) -> None:
        self.clearing = False
        self._say = say

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Handle one signal."""
        if not self.clearing:
            self.clearing = True
            raise StoppedError(number)
        self._say("the data are being deleted; kill -9 leaves that to the next start")


@contextmanager
def stop_signals(say: Say) -> Iterator[StopSignals]:
    """While this is open, Ctrl-C, SIGTERM and a closed terminal raise one ``StoppedError``."""
    handler = StopSignals(say)
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.getsignal(each) for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN}
    try:
        for each in before:
            signal.signal(each, handler)
        yield handler
    finally:
        for each, previous in before.items():
            signal.signal(each, previous)


def clear(entry: Entry, provider: Provider | None, pause_s: float = PAUSE_S) -> None:
    """Delete everything of a rental but its record and its result, and verify that its volume is gone.

    If nothing was rented yet, the record is deleted as well.

    Args:
        entry: Entry of the rental, which is saved as ended.
        provider: The rental's provider; may be None if the rental has no volume.
        pause_s: Seconds before another try.

    Raises:
        OSError: The volume still exists, or the provider does not answer. The record keeps the volume's name for the
            next try.
    """
    record = entry.record
    entry.unpack()
    shutil.rmtree(incomplete_folder(entry), ignore_errors=True)
    if record.step == "preparing":
        entry.forget()
        return
    if record.volume is not None:
        assert provider is not None, "a volume has a provider"
        with suppress(OSError):  # if the disk here is full, the volume must be deleted all the same
            entry.save(step="deleting")
        faults.point("cloud.deleting")
        _delete(provider, record.volume, record.call, pause_s)
        faults.point("cloud.deleted")
    entry.save(step="ended", volume=None)


def incomplete_folder(entry: Entry) -> Path:
    """Folder of a result that has not been downloaded and verified completely."""
    return Path(entry.record.output) / f".{entry.record.id}"


def _delete(provider: Provider, volume: str, call: str | None, pause_s: float) -> None:
    for tries_left in range(TRIES - 1, -1, -1):
        try:
            _delete_once(provider, volume, call)
            return
        except Exception as error:  # any error of a provider's client: what matters is that the data are deleted
            if tries_left == 0:
                raise OSError(
                    f"{provider.name}: the volume {volume} with the data may still be there ({error}); "
                    "python -m asr_lightning cloud gc tries again, as does every other cloud command"
                ) from error
        time.sleep(pause_s)


def _delete_once(provider: Provider, volume: str, call: str | None) -> None:
    try:
        if call is not None:
            provider.cancel(call)
    finally:
        provider.delete(volume)
    if volume in provider.volumes():
        raise OSError("it is still listed")


def clear_leftovers(
    ledger: Ledger, open_provider: Callable[[str], Provider], say: Say, pause_s: float = PAUSE_S
) -> int:
    """Clear the rentals whose clients were killed; returns how many could not be cleared."""
    failures = 0
    for record in ledger.records():
        if record.is_over or record.detached:
            continue
        entry = ledger.take(record.id)
        if entry is None:
            continue  # its client is still running
        try:
            if not entry.record.is_over and not entry.record.detached:
                _clear_leftover(entry, open_provider, pause_s)
                say(f"rental {record.id}: its client was ended, its data are deleted")
        except Exception as error:  # also a provider whose package is missing: the other rentals must still be cleared
            failures += 1
            say(f"rental {record.id}: {error}")
        finally:
            entry.close()
    return failures


def _clear_leftover(entry: Entry, open_provider: Callable[[str], Provider], pause_s: float) -> None:
    if entry.record.outcome is None:
        error = Failure("abandoned", "the client was ended before the training was")
        entry.save(outcome="failed", error=error)
    clear(entry, None if entry.record.volume is None else open_provider(entry.record.provider), pause_s)
