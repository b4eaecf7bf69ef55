"""Carries out a rental: packs, inspects and sends the recordings, trains, downloads the model and deletes the data."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr_lightning.client.pack import pack
from asr_lightning.cloud import budget, endings, fetch
from asr_lightning.cloud.follow import PAUSE_S, POLL_S, Show, Watch
from asr_lightning.cloud.ledger import Entry, Ledger, Record
from asr_lightning.cloud.provider import Provider, Request, device_of, spec_document, volume_of
from asr_lightning.cloud.remote import INTAKE
from asr_lightning.durable import faults
from asr_lightning.job_folder import processes
from asr_lightning.job_folder.failure import Failure
from asr_lightning.job_folder.intake_report import Dataset, IntakeReport
from asr_lightning.job_folder.layout import ARCHIVE
from asr_lightning.job_folder.spec import JobSpec

SHOWN_ISSUES = 10


@dataclass(frozen=True)
class Order:
    """What a user wants to train.

    Attributes:
        data: Folder of recordings.
        spec: What to train.
        source: The model, as the trainer's ``--model`` takes it.
        parameters_m: Number of the model's weights, in millions.
        gpu: The provider's name of the GPU.
        output: Folder for the result.
        max_cost: Most that the training may cost, in USD; None sets no such limit.
        max_seconds: Most time that the training may take; None sets no such limit, unless ``max_cost`` is None too.
        detach: Whether to return once the training runs.
    """

    data: Path
    spec: JobSpec
    source: str
    parameters_m: float
    gpu: str
    output: Path
    max_cost: float | None = None
    max_seconds: float | None = None
    detach: bool = False


class Renter:
    """Rents from one provider.

    Args:
        ledger: The ledger of this machine.
        provider: Provider to rent from.
        show: Shows the rental to a person.
        agree: Called with the estimated time and cost; returns whether to rent.
        intake: Command line that inspects the data.
        poll_s: Longest pause between two polls of the training, in seconds.
        pause_s: Pause after a failure of the provider, in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        provider: Provider,
        show: Show,
        agree: Callable[[str], bool],
        intake: Sequence[str] = INTAKE,
        poll_s: float = POLL_S,
        pause_s: float = PAUSE_S,
    ) -> None:
        self.ledger, self.provider, self.show, self.agree = ledger, provider, show, agree
        self._intake, self._poll_s, self._pause_s = intake, poll_s, pause_s

    def rent(self, order: Order) -> Record:
        """Carry out an order. The record says how it ended; the data are deleted whatever happens.

        Raises:
            ValueError: The data, the order or its cost are refused; nothing was rented.
            OSError: The provider failed, or the data could not be deleted.
            StoppedError: A signal stopped the client.
        """
        price = self.provider.price(order.gpu)
        limit = budget.ceiling(price, order.max_cost, order.max_seconds)
        output = fetch.free_folder(order.output.absolute())
        with endings.stop_signals(self.show.say) as stops:
            entry = self.ledger.open(
                provider=self.provider.name,
                gpu=order.gpu,
                price=price,
                spec=spec_document(order.spec),
                max_seconds=limit,
                output=str(output),
                created_at=time.time(),
            )
            try:
                self._carry_out(entry, order)
            except BaseException as error:
                self._note(entry, error)
                raise _as_os_error(self.provider.name, error) from error
            finally:
                try:
                    stops.clearing = True
                finally:  # a signal may come just before the assignment
                    self._close(entry)
        return entry.record

    def finish(self, entry: Entry) -> Record:
        """Wait for the end of a detached training, download its result, and delete its data.

        Raises:
            OSError: The provider failed, or the data could not be deleted. After a failure of the provider, the data
                are kept for another try.
        """
        self._conclude(entry)
        self._clear(entry)
        return entry.record

    def _carry_out(self, entry: Entry, order: Order) -> None:
        archive = self._prepare(entry, order)
        faults.point("cloud.prepared")
        volume = volume_of(entry.record.id)
        entry.save(step="creating", volume=volume)
        faults.point("cloud.creating")
        self.provider.create(volume)
        faults.point("cloud.created")
        entry.save(step="uploading")
        self.provider.upload(volume, archive, ARCHIVE)
        faults.point("cloud.uploaded")
        entry.unpack()
        entry.save(step="spawning", spawned_at=time.time())
        faults.point("cloud.spawning")
        request = Request(
            entry.record.id, order.spec, order.gpu, entry.record.max_seconds, order.source, device_of(order.gpu)
        )
        call = self.provider.spawn(volume, request)
        faults.point("cloud.spawned")
        entry.save(step="running", call=call)
        self.show.say(f"rental {entry.record.id}: {order.spec.model} trains on {order.gpu} at {self.provider.name}")
        if order.detach:
            entry.save(detached=True)
        else:
            faults.point("cloud.following")
            self._conclude(entry)

    def _prepare(self, entry: Entry, order: Order) -> Path:
        """Pack and inspect the data, and ask whether to rent at the estimated cost; returns the archive."""
        archive = entry.packed / ARCHIVE
        archive.parent.mkdir(parents=True, mode=0o700)
        faults.point("cloud.packing")
        pack(order.data, archive, self.show.moved("packing"))
        faults.point("cloud.packed")
        dataset = self._check(entry.packed, entry.record.id)
        expected = budget.estimate(
            dataset["utterances"] or 0, dataset["seconds"] or 0.0, order.spec.epochs, order.parameters_m, order.gpu,
            entry.record.price,
        )  # fmt: skip
        limit = entry.record.max_seconds
        budget.require_affordable(expected, limit, order.max_cost, entry.record.price)
        most = entry.record.price * limit / 3600
        text = (
            f"estimate: {budget.duration_text(expected.seconds)} and ${expected.cost:.2f} on {order.gpu} "
            f"at {self.provider.name}\n"
            f"  from {expected.basis}\n"
            f"ceiling: {budget.duration_text(limit)} and ${most:.2f} at ${entry.record.price:.2f} an hour; "
            "then it is stopped"
        )
        if not self.agree(text):
            raise ValueError("nothing was rented")
        return archive

    def _check(self, folder: Path, rental: str) -> Dataset:
        """What the intake says of the packed recordings: the same check as on the rented machine.

        Raises:
            ValueError: They are refused.
        """
        env = processes.environment(rental, folder, secrets=False)
        command = [*self._intake, "--check_only"]
        child = processes.start(command, folder, "intake", env, [])
        try:
            status = child.wait()
        finally:
            processes.end_all(rental)
            child.wait()
        report = IntakeReport.read(folder)
        if report is None:
            raise OSError(f"the check of the data broke off with status {status}")
        issues = report.dataset["issues"] or []
        for issue in issues[:SHOWN_ISSUES]:
            self.show.say(f"{issue['code']} {issue['name'] or ''} {issue['message']}")
        if len(issues) > SHOWN_ISSUES:
            self.show.say(f"and {len(issues) - SHOWN_ISSUES} more")
        if report.error is not None:
            raise ValueError(report.error.message)
        return report.dataset

    def _conclude(self, entry: Entry) -> None:
        """Watch the training until it ends, and download the result if there is one."""
        error = Watch(entry, self.provider, self.show, self._poll_s, self._pause_s).until_over()
        if error is None:
            fetch.fetch(entry, self.provider, self.show)
        else:
            entry.save(outcome="failed", error=error)

    def _note(self, entry: Entry, error: BaseException) -> None:
        """Record why the rental ended, for ``cloud status``, and the longest time that it can have used."""
        if entry.record.seconds is None and entry.record.spawned_at is not None:
            entry.record.seconds = time.time() - entry.record.spawned_at
        if entry.record.outcome is None:
            stopped = isinstance(error, KeyboardInterrupt)
            failure = Failure("cancelled" if stopped else "failed", str(error))
            entry.save(outcome=failure.code, error=failure)

    def _close(self, entry: Entry) -> None:
        """Delete the data, unless the rental is detached; then free the lock."""
        try:
            if not entry.record.detached:
                self._clear(entry)
        finally:
            entry.close()

    def _clear(self, entry: Entry) -> None:
        sent = entry.record.volume is not None
        endings.clear(entry, self.provider, self._pause_s)
        if sent:
            self.show.say("what was sent is deleted, and the volume is gone from the provider's list")


def _as_os_error(name: str, error: BaseException) -> BaseException:
    """An error of a provider's client as an ``OSError``, which the command line prints in one line."""
    if isinstance(error, (OSError, ValueError)) or not isinstance(error, Exception):
        return error
    return OSError(f"{name}: {type(error).__name__}: {error}")
