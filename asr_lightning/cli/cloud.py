"""``cloud``: train on a rented GPU, and delete everything there. A provider is imported only when it is used."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.cli.cloud_screen import Screen, record_lines, say_line, show_end, used
from asr_lightning.cli.terminal import visible_text
from asr_lightning.cloud.providers import PROVIDERS
from asr_lightning.errors import require_extra
from asr_lightning.run.spec import DEFAULT_MODEL, default_run_dir

if TYPE_CHECKING:
    from asr_lightning.cloud.ledger import Entry, Ledger, Record
    from asr_lightning.cloud.provider import Provider

DEFAULT_GPU = "L4"
DESCRIPTION = "Train on a GPU that is rented for it, download the model, and delete the data there in every case."
EPILOG = "All rentals are recorded in ASR_CLOUD_HOME, or ~/.asr_lightning/cloud."
LOG_POLL_S = 2.0


def parser() -> argparse.ArgumentParser:
    """The parser for ``cloud``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning cloud", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False
    )
    actions = options.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, text: str, rental: str | None = None) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        if rental:
            action.add_argument("id", nargs="?" if rental == "?" else None, help="id of a rental")
        return action

    _run_options(add("run", "inspect a folder of recordings, rent a GPU, train, and download the model"))
    status = add("status", "show one rental, or list all of them", rental="?")
    status.add_argument("--json", action="store_true", help="print the record as JSON, for programs")
    add("logs", "print the trainer's log", rental="1").add_argument(
        "--follow", action="store_true", help="continue until the training is over"
    )
    add("cancel", "stop a rental, and delete its data", rental="1")
    fetch = add("download", "wait for a detached rental, download its result, and delete its data", rental="1")
    fetch.add_argument("-o", "--output", type=Path, help="folder for the result; default: the one that run was given")
    collect = add("gc", "delete what killed clients left; with an ID, everything of that rental", rental="?")
    collect.add_argument("--provider", choices=PROVIDERS, help="list its volumes of no rental known here")
    collect.add_argument("--volume", help="with --provider: delete this volume, perhaps of another machine")
    return options


def _run_options(action: argparse.ArgumentParser) -> None:
    action.add_argument("data", type=Path, help="folder with <UID>.wav (or mp3, …) and <UID>.txt")
    action.add_argument("--model", default=DEFAULT_MODEL, help="a name of python -m asr_lightning models")
    action.add_argument("--provider", choices=PROVIDERS, required=True, help="local trains on this machine")
    action.add_argument("--gpu", help=f"the provider's name of it; default: {DEFAULT_GPU}, or this machine's device")
    action.add_argument("--language", help="language of the recordings, such as de; for multilingual models only")
    action.add_argument("--epochs", type=int, help="number of epochs, 1 to 100; default: that of the model's recipe")
    action.add_argument("--seed", type=int, default=0, help="seed of the random split and of training")
    action.add_argument("--max_cost", type=float, help="most that it may cost in USD; then the training is stopped")
    action.add_argument("--max_time", help="most time that it may take, such as 30m; default: 1h without --max_cost")
    action.add_argument("--yes", action="store_true", help="rent without asking; needed if nobody can answer")
    action.add_argument("--quiet", action="store_true", help="do not print the trainer's log")
    action.add_argument("-o", "--output", type=Path, help="folder for the result; default: runs/<name of the folder>")
    action.add_argument("--detach", action="store_true", help="return once it trains; cloud download gets the result")


def run(command: str, arguments: list[str]) -> int:
    """Carry out the action; returns the exit status, which is 1 if the training did not succeed."""
    options = parser().parse_args(arguments)
    for module in ("httpx", "psutil", "tqdm"):
        require_extra("cloud", module, "the client of rented GPUs")
    from asr_lightning.cloud import endings, ledger, providers

    rentals = ledger.Ledger()
    failures = endings.clear_leftovers(rentals, providers.open_provider, say_line)
    try:
        with endings.stop_signals(say_line):
            return ACTIONS[options.action](rentals, options) or int(options.action == "gc" and failures > 0)
    except endings.StoppedError as stopped:
        print(f"\nstopped by {stopped}", file=sys.stderr)
        return 128 + stopped.number


def rent(rentals: Ledger, options: argparse.Namespace) -> int:
    """Rent a machine, train, download the result, and print how it ended."""
    from asr_lightning.adapters import registry
    from asr_lightning.cloud import budget, providers, rental
    from asr_lightning.job_folder.spec import DEFAULT_EPOCHS, JobSpec

    card = registry.card_of(options.model)
    if card is None:
        registry.choose(options.model)  # its error suggests similar names
        raise ValueError(f"{options.model} is on this machine only: name a model of python -m asr_lightning models")
    provider = providers.open_provider(options.provider)
    epochs = registry.epochs_of(card.name, DEFAULT_EPOCHS) if options.epochs is None else options.epochs
    order = rental.Order(
        data=options.data,
        spec=JobSpec(card.name, options.language, epochs, options.seed),
        source=card.name,
        parameters_m=card.parameters,
        gpu=options.gpu or getattr(provider, "default_gpu", DEFAULT_GPU),
        output=options.output or default_run_dir(options.data),
        max_cost=options.max_cost,
        max_seconds=None if options.max_time is None else budget.parse_duration(options.max_time),
        detach=options.detach,
    )
    registry.warn_of_licence(card.source)
    with Screen(quiet=options.quiet or options.detach) as screen:
        record = rental.Renter(rentals, provider, screen, lambda text: _agree(text, options.yes)).rent(order)
    if record.detached:
        print(f"python -m asr_lightning cloud download {record.id}")
        return 0
    return show_end(record)


def status(rentals: Ledger, options: argparse.Namespace) -> int:
    """Print one rental, or a line for each rental."""
    records = [rentals.record(options.id)] if options.id else rentals.records()
    for record in records:
        state = _state(rentals, record)
        if options.json:
            print(json.dumps({**asdict(record), "state": state, "cost": record.cost}))
        elif options.id:
            print("\n".join(record_lines(record, state)))
        else:
            print(f"{record.id:24}{state:12}{record.provider:10}{record.gpu:8}{used(record):22}{record.spec['model']}")
    return 0


def logs(rentals: Ledger, options: argparse.Namespace) -> int:
    """Print the log: that on the volume, or the one that was downloaded."""
    from asr_lightning.cloud.follow import LOG

    record, offset = rentals.record(options.id), 0
    if record.volume is None:
        path = Path(record.output) / "trainer.log"
        if record.outcome != "succeeded" or not path.exists():
            raise ValueError(f"the log of {record.id} was deleted with its volume")
        sys.stdout.write(visible_text(path.read_text("utf-8", "replace")))
        return 0
    provider = _provider(record)
    while True:
        # Asked before the log is read: what the trainer wrote last is then not missed.
        is_last = not options.follow or record.call is None or provider.poll(record.call) != "running"
        data = provider.read(record.volume, LOG, offset) or b""
        offset += len(data)
        print(visible_text(data.decode("utf-8", "replace")), end="", flush=True)
        if is_last:
            return 0
        time.sleep(LOG_POLL_S)


def cancel(rentals: Ledger, options: argparse.Namespace) -> int:
    """End a rental, and delete its data; if another client works on it, that one deletes them."""
    record = rentals.record(options.id)
    entry = rentals.take(options.id)
    if entry is None:
        if record.call is None:
            raise ValueError(f"{record.id} is being prepared by another command: stop that one with Ctrl-C")
        _provider(record).cancel(record.call)
        print(f"{record.id} is cancelled; the command that runs it deletes its data")
        return 0
    return _clear(entry, "cancelled")


def download(rentals: Ledger, options: argparse.Namespace) -> int:
    """Wait for the end of a training, download its result, and delete its data."""
    from asr_lightning.cloud import fetch, rental

    entry = rentals.take(options.id)
    if entry is None:
        raise ValueError(f"another command works on {options.id}: wait for it")
    try:
        record = entry.record
        if record.volume is None or record.call is None:
            raise ValueError(f"nothing of {record.id} is left there: cloud status {record.id} says how it ended")
        if options.output:
            entry.save(output=str(fetch.free_folder(options.output.absolute())))
        with Screen(quiet=True) as screen:
            return show_end(rental.Renter(rentals, _provider(record), screen, lambda _: True).finish(entry))
    finally:
        entry.close()


def collect(rentals: Ledger, options: argparse.Namespace) -> int:
    """Delete the rental or the volume that the options name; ``run`` has cleared what killed clients left before."""
    from asr_lightning.cloud import providers

    if options.id:
        entry = rentals.take(options.id)
        if entry is None:
            raise ValueError(f"another command works on {options.id}: end it, or run cloud cancel {options.id}")
        return _clear(entry, "cancelled")
    if options.volume and not options.provider:
        raise ValueError("--volume needs --provider, the provider that has the volume")
    if options.provider:
        provider = providers.open_provider(options.provider)
        if options.volume:
            provider.delete(options.volume)
        known = {record.volume for record in rentals.records()}
        for volume in provider.volumes():
            if volume not in known:
                command = f"cloud gc --provider {options.provider} --volume {volume}"
                print(f"{volume} belongs to no rental here: {command} deletes it")
    detached = [record.id for record in rentals.records() if record.detached and not record.is_over]
    print(f"nothing is left but {len(detached)} detached rentals" if detached else "nothing is left")
    return 0


ACTIONS = {"run": rent, "status": status, "logs": logs, "cancel": cancel, "download": download, "gc": collect}


def _agree(text: str, yes: bool) -> bool:
    """Print what it will cost, and ask whether to rent unless ``yes`` is the answer."""
    say_line(text)
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ValueError("nobody can be asked here whether to rent: give --yes")
    return input("rent it? [y/N] ").strip().lower() in ("y", "yes")


def _clear(entry: Entry, outcome: str) -> int:
    from asr_lightning.cloud import endings

    try:
        record = entry.record
        if record.outcome is None:
            entry.save(outcome=outcome)
        endings.clear(entry, None if record.volume is None else _provider(record))
        print(f"{record.id}: its data are deleted, and its volume is gone from the list")
    finally:
        entry.close()
    return 0


def _provider(record: Record) -> Provider:
    from asr_lightning.cloud import providers

    return providers.open_provider(record.provider)


def _state(rentals: Ledger, record: Record) -> str:
    """State of a rental, in a word or two."""
    if record.is_over:
        return record.outcome or "ended"
    if record.detached and record.call is not None and record.step == "running":
        return {"running": "running", "done": "finished", "gone": "lost"}[_provider(record).poll(record.call)]
    return record.step if rentals.is_attended(record.id) or record.detached else "left over"
