"""``cloud``: train on a GPU that is rented for it, and leave nothing there. Loads a provider only when it is used."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.cli.cloud_screen import Screen, record_lines, say_line, show_end, used, visible_text
from asr_lightning.errors import require_extra
from asr_lightning.run.spec import DEFAULT_MODEL, default_run_dir

if TYPE_CHECKING:
    from asr_lightning.cloud.ledger import Entry, Ledger, Record
    from asr_lightning.cloud.provider import Provider

DEFAULT_GPU = "L4"
PROVIDERS = ("modal", "skypilot", "local")
DESCRIPTION = "Train on a GPU that is rented for it, fetch the model, and delete the data there in every case."
EPILOG = "What was rented is written down in ASR_CLOUD_HOME, or ~/.asr_lightning/cloud."
LOG_S = 2.0


def parser() -> argparse.ArgumentParser:
    """The options of ``cloud``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning cloud", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False
    )
    actions = options.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, text: str, rental: str | None = None) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text, allow_abbrev=False)
        if rental:
            action.add_argument("id", nargs="?" if rental == "?" else None, help="id of a rental")
        return action

    _run_options(add("run", "check a folder of recordings, rent a GPU, train, and fetch the model"))
    status = add("status", "one rental, or all of them", rental="?")
    status.add_argument("--json", action="store_true", help="print the record, for programs")
    add("logs", "the trainer's log", rental="1").add_argument(
        "--follow", action="store_true", help="until the training is over"
    )
    add("cancel", "end a rental, and delete its data", rental="1")
    fetch = add("download", "wait for a detached rental, fetch its result, and delete its data", rental="1")
    fetch.add_argument("-o", "--output", type=Path, help="folder; without it the one that run was given")
    collect = add("gc", "delete what ended clients left; with an ID all of that rental", rental="?")
    collect.add_argument("--provider", choices=PROVIDERS, help="list its volumes that no rental here knows")
    collect.add_argument("--volume", help="with --provider: delete this one, of another machine's rental perhaps")
    return options


def _run_options(action: argparse.ArgumentParser) -> None:
    action.add_argument("data", type=Path, help="folder with <UID>.wav (or mp3, …) and <UID>.txt")
    action.add_argument("--model", default=DEFAULT_MODEL, help="a name of python -m asr_lightning models")
    action.add_argument("--provider", choices=PROVIDERS, required=True, help="local trains on this machine")
    action.add_argument("--gpu", help=f"as the provider names it; default {DEFAULT_GPU}, or this machine's device")
    action.add_argument("--language", help="of a multilingual model, such as de")
    action.add_argument("--epochs", type=int, help="1 to 100; without it the recipe's")
    action.add_argument("--seed", type=int, default=0, help="another seed gives another run")
    action.add_argument("--max_cost", type=float, help="USD; the training is stopped before it costs more")
    action.add_argument("--max_time", help="such as 30m; without it and --max_cost an hour")
    action.add_argument("--yes", action="store_true", help="do not ask; needed where nobody can answer")
    action.add_argument("--quiet", action="store_true", help="do not print the trainer's log")
    action.add_argument("-o", "--output", type=Path, help="folder for the result; without it runs/<name of the folder>")
    action.add_argument("--detach", action="store_true", help="return once it trains; cloud download ID fetches it")


def run(command: str, arguments: list[str]) -> int:
    """Do what was asked; returns the exit status: 0 done, 1 the training did not succeed."""
    options = parser().parse_args(arguments)
    for module in ("httpx", "psutil", "tqdm"):
        require_extra("cloud", module, "the client of rented GPUs")
    from asr_lightning.cloud import endings, ledger, providers

    known = ledger.Ledger()
    failed = endings.clear_leftovers(known, providers.open_provider, say_line)
    try:
        with endings.stop_signals(say_line):
            return ACTIONS[options.action](known, options) or int(options.action == "gc" and failed > 0)
    except endings.StoppedError as stopped:
        print(f"\nstopped by {stopped}", file=sys.stderr)
        return 128 + stopped.number


def rent(known: Ledger, options: argparse.Namespace) -> int:
    """Rent, train, fetch, and say how it ended."""
    from asr_lightning.adapters import registry
    from asr_lightning.cloud import budget, providers, rental
    from asr_lightning.job_folder.spec import DEFAULT_EPOCHS, JobSpec

    card = registry.card_of(options.model)
    if card is None:
        registry.choose(options.model)  # says which names are near
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
        record = rental.Renter(known, provider, screen, lambda text: _agree(text, options.yes)).rent(order)
    if record.detached:
        print(f"python -m asr_lightning cloud download {record.id}")
        return 0
    return show_end(record)


def status(known: Ledger, options: argparse.Namespace) -> int:
    """Print one rental, or a line for each."""
    records = [known.record(options.id)] if options.id else known.records()
    for record in records:
        state = _state(known, record)
        if options.json:
            print(json.dumps({**asdict(record), "state": state, "cost": record.cost}))
        elif options.id:
            print("\n".join(record_lines(record, state)))
        else:
            print(f"{record.id:24}{state:12}{record.provider:10}{record.gpu:8}{used(record):22}{record.spec['model']}")
    return 0


def logs(known: Ledger, options: argparse.Namespace) -> int:
    """Print the log: the volume's, or what was fetched of it."""
    import time

    from asr_lightning.cloud.follow import LOG

    record, read = known.record(options.id), 0
    if record.volume is None:
        path = Path(record.output) / "trainer.log"
        if record.outcome != "succeeded" or not path.exists():
            raise ValueError(f"the log of {record.id} was deleted with its volume")
        sys.stdout.write(visible_text(path.read_bytes()))
        return 0
    provider = _provider(record)
    while True:
        over = record.call is None or provider.poll(record.call) != "running"
        more = provider.read(record.volume, LOG, read) or b""
        read += len(more)
        print(visible_text(more), end="", flush=True)
        if over or not options.follow:
            return 0
        time.sleep(LOG_S)


def cancel(known: Ledger, options: argparse.Namespace) -> int:
    """End it; where another client is at work, that one deletes the data."""
    record = known.record(options.id)
    entry = known.take(options.id)
    if entry is None:
        if record.call is None:
            raise ValueError(f"{record.id} is being prepared by another command: stop that one with Ctrl-C")
        _provider(record).cancel(record.call)
        print(f"{record.id} is cancelled; the command that runs it deletes its data")
        return 0
    return _clear(entry, "cancelled")


def download(known: Ledger, options: argparse.Namespace) -> int:
    """Wait, fetch, delete."""
    from asr_lightning.cloud import fetch, rental

    entry = known.take(options.id)
    if entry is None:
        raise ValueError(f"another command is at work on {options.id}: wait for it")
    try:
        record = entry.record
        if record.volume is None or record.call is None:
            raise ValueError(f"nothing of {record.id} is left there: cloud status {record.id} says how it ended")
        if options.output:
            entry.save(output=str(fetch.free_folder(options.output.absolute())))
        with Screen(quiet=True) as screen:
            return show_end(rental.Renter(known, _provider(record), screen, lambda _: True).finish(entry))
    finally:
        entry.close()


def collect(known: Ledger, options: argparse.Namespace) -> int:
    """What ended clients left was collected before; here is what somebody asks for by name."""
    from asr_lightning.cloud import providers

    if options.id:
        entry = known.take(options.id)
        if entry is None:
            raise ValueError(f"another command is at work on {options.id}: end it, or cloud cancel {options.id}")
        return _clear(entry, "cancelled")
    if options.volume and not options.provider:
        raise ValueError("--volume needs the --provider that has it")
    if options.provider:
        provider = providers.open_provider(options.provider)
        if options.volume:
            provider.delete(options.volume)
        ours = {record.volume for record in known.records()}
        for volume in provider.volumes():
            if volume not in ours:
                print(f"{volume} is of no rental here: gc --provider {options.provider} --volume {volume} deletes it")
    detached = [record.id for record in known.records() if record.detached and not record.is_over]
    print(f"nothing is left but {len(detached)} detached rentals" if detached else "nothing is left")
    return 0


ACTIONS = {"run": rent, "status": status, "logs": logs, "cancel": cancel, "download": download, "gc": collect}


def _agree(text: str, yes: bool) -> bool:
    """Show what it will cost, and ask unless that was answered."""
    say_line(text)
    if yes:
        return True
    if not sys.stdin.isatty():
        raise ValueError("nobody is here to be asked: give --yes to rent")
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


def _state(known: Ledger, record: Record) -> str:
    """What a rental is doing, in a word."""
    if record.is_over:
        return record.outcome or "ended"
    if record.detached and record.call is not None and record.step == "running":
        return {"running": "running", "done": "finished", "gone": "lost"}[_provider(record).poll(record.call)]
    return record.step if known.is_attended(record.id) or record.detached else "left over"
