"""Nothing is left behind: how a rental is cleared away, now, or at the next start after its client was killed."""

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
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Say = Callable[[str], None]


class StoppedError(KeyboardInterrupt):
    """Somebody stops this client.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Stops:
    """Signals that stop this client: the first one raises, those during clearing only tell why it is not over yet."""

    def __init__(self, say: Say) -> None:
        self.clearing = False
        self._say = say

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """The handler."""
        if not self.clearing:
            self.clearing = True
            raise StoppedError(number)
        self._say("the data are being deleted; kill -9 leaves that to the next start")


@contextmanager
def stops(say: Say) -> Iterator[Stops]:
    """Ctrl-C, SIGTERM and a closed terminal become one ``StoppedError`` while this is open."""
    found = Stops(say)
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {each: signal.getsignal(each) for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN}
    try:
        for each in before:
            signal.signal(each, found)
        yield found
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def clear(entry: Entry, provider: Provider | None, pause_s: float = PAUSE_S) -> None:
    """Delete all of a rental but its record and its result, and see that its volume is gone.

    The record goes as well where nothing was ever rented.

    Args:
        entry: Of the rental; says afterwards that nothing is left.
        provider: Its own; may be None where it has no volume.
        pause_s: Before another try.

    Raises:
        OSError: The volume is still there, or nobody can tell; the record keeps its name for the next try.
    """
    record = entry.record
    entry.unpack()
    shutil.rmtree(partial(entry), ignore_errors=True)
    if record.step == "preparing":
        entry.forget()
        return
    if record.volume is not None:
        assert provider is not None, "a volume has a provider"
        with suppress(OSError):  # a full disk here keeps nothing there
            entry.save(step="deleting")
        faults.point("cloud.deleting")
        _delete(provider, record.volume, record.call, pause_s)
        faults.point("cloud.deleted")
    entry.save(step="ended", volume=None)


def partial(entry: Entry) -> Path:
    """Where a result is kept until all of it has arrived and is verified."""
    return Path(entry.record.output) / f".{entry.record.id}"


def _delete(provider: Provider, volume: str, call: str | None, pause_s: float) -> None:
    for left in range(TRIES - 1, -1, -1):
        try:
            _delete_once(provider, volume, call)
            return
        except Exception as error:  # whatever a provider's client raises: the data are what counts
            if left == 0:
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


def collect(ledger: Ledger, open_provider: Callable[[str], Provider], say: Say, pause_s: float = PAUSE_S) -> int:
    """Clear away what killed clients left; returns how many rentals could not be cleared."""
    failed = 0
    for record in ledger.records():
        if record.is_over or record.detached:
            continue
        entry = ledger.take(record.id)
        if entry is None:
            continue  # its client is at work
        try:
            if not entry.record.is_over and not entry.record.detached:
                _collect(entry, open_provider, pause_s)
                say(f"rental {record.id}: its client was ended, its data are deleted")
        except Exception as error:  # also a provider whose package is missing: other rentals are cleared all the same
            failed += 1
            say(f"rental {record.id}: {error}")
        finally:
            entry.close()
    return failed


def _collect(entry: Entry, open_provider: Callable[[str], Provider], pause_s: float) -> None:
    if entry.record.outcome is None:
        error = Failure("abandoned", "the client was ended before the training was")
        entry.save(outcome="failed", error=error)
    clear(entry, None if entry.record.volume is None else open_provider(entry.record.provider), pause_s)
