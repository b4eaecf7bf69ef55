"""``remote``: train on another machine, and fetch the model from there. Loads the client only when it is used."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asr_lightning.errors import require_extra

if TYPE_CHECKING:
    from asr_lightning.client import Client

SERVER = "http://127.0.0.1:5553"
DEFAULT_MODEL = "whisper-tiny.en"
DESCRIPTION = "Train on another machine, where python -m asr_lightning serve runs, and fetch the model from there."
EPILOG = "The token comes from ASR_SERVER_TOKEN, and is no option: options are seen by others on this machine."
SHOWN_ISSUES = 10


def parser() -> argparse.ArgumentParser:
    """The options of ``remote``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning remote", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False
    )
    everywhere = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    everywhere.add_argument(
        "--server", default=os.environ.get("ASR_SERVER", SERVER), help=f"address; without it ASR_SERVER, or {SERVER}"
    )
    everywhere.add_argument("--json", action="store_true", help="print what the server says, for programs")
    actions = options.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, text: str, job: str | None = None) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text, parents=[everywhere], allow_abbrev=False)
        if job:
            action.add_argument("id", nargs="?" if job == "?" else None, help="id of a job")
        return action

    _submit_options(add("submit", "pack a folder of recordings, send it, and train"))
    add("validate", "check recordings on the server, without training").add_argument("data", type=Path, help=DATA)
    add("status", "one job, or all of them", job="?")
    log = add("logs", "the trainer's log", job="1")
    log.add_argument("--follow", action="store_true", help=FOLLOW)
    log.add_argument("--intake", action="store_true", help="the log of the data checks instead")
    add("cancel", "end a job", job="1")
    add("resume", "go on with a job that was interrupted, failed or cancelled", job="1")
    add("delete", "delete a job with its recordings and models", job="1")
    fetch = add("download", "fetch the model", job="1")
    fetch.add_argument("-o", "--output", type=Path, help="file or folder; without it ID_model.tar.gz")
    fetch.add_argument("--name", default="model.tar.gz", help="another artifact, such as report.html")
    add("models", "the models that the server trains")
    return options


DATA = "folder with <UID>.wav (or mp3, …) and <UID>.txt, or a tar.gz of one"
FOLLOW = "until the job is over"


def _submit_options(action: argparse.ArgumentParser) -> None:
    action.add_argument("data", type=Path, help=DATA)
    action.add_argument("--model", default=DEFAULT_MODEL, help=f"a name of remote models; default {DEFAULT_MODEL}")
    action.add_argument("--language", help="of a multilingual model, such as de")
    action.add_argument("--epochs", type=int, help="1 to 100; without it the server's default")
    action.add_argument("--seed", type=int, help="another seed gives another run")
    action.add_argument("--key", help="a name of your own: a repeated command finds the first one's job")
    action.add_argument("--follow", action="store_true", help="show the progress until the job is over")


def run(command: str, arguments: list[str]) -> int:
    """Do what was asked; returns the exit status: 0 done, 1 the job did not succeed."""
    options = parser().parse_args(arguments)
    for module in ("httpx", "tqdm"):
        require_extra("server", module, "the client of the training server")
    from asr_lightning.client import Client, ServerError

    patient = options.action in ("submit", "logs", "download")  # half a minute; a look says at once that none is there
    with Client(options.server, retries=8 if patient else 2) as client:
        try:
            return ACTIONS[options.action](client, options)
        except ServerError as error:
            for line in issue_lines(error.details):
                print(line, file=sys.stderr)
            raise
        except KeyboardInterrupt:
            print("\nstopped watching; a job that was accepted goes on: remote status lists it", file=sys.stderr)
            return 130


def submit(client: Client, options: argparse.Namespace) -> int:
    """Send, and with ``--follow`` wait."""
    with bar("packing", "clips") as packing, bar("sending", "B") as sending:
        job = client.submit(
            options.data, options.model, options.language, options.epochs, options.seed, options.key, packing, sending
        )
    if not options.follow:
        return show(options, job, text=f"job {clean(job['id'])} {clean(job['state'])}")
    print(f"job {clean(job['id'])}", file=sys.stderr)
    with bar("training", "%") as moved:
        job = client.wait(job["id"], lambda now: moved(round(100 * fraction(now)), 100, message(now)))
    return show(options, job) or int(job["state"] != "succeeded")


def validate(client: Client, options: argparse.Namespace) -> int:
    """Print the verdict and the issues."""
    with bar("packing", "clips") as packing:
        verdict = client.validate(options.data, packing)
    text = f"{verdict['utterances']} recordings, {verdict['seconds']:.0f} s: good to train"
    return show(options, verdict, text="\n".join([*issue_lines(verdict), text]))


def status(client: Client, options: argparse.Namespace) -> int:
    """Print one job, or a line for each."""
    if options.id:
        return show(options, client.job(options.id))
    for job in client.jobs():
        line = f"{clean(job['id']):24}{clean(job['state']):13}{clean(job['created_at'] or ''):28}"
        show(options, job, text=f"{line}{clean(job['base_model'] or '')}  {message(job)}".rstrip())
    return 0


def logs(client: Client, options: argparse.Namespace) -> int:
    """Print the log without what a terminal would obey."""
    import codecs

    from asr_lightning.client.errors import visible

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for block in client.logs(options.id, options.follow, name="intake" if options.intake else "trainer"):
        lines = decoder.decode(block).replace("\r", "\n").expandtabs().split("\n")
        print("\n".join(map(visible, lines)), end="", flush=True)
    return 0


def download(client: Client, options: argparse.Namespace) -> int:
    """Fetch an artifact."""
    target = options.output or Path(f"{options.id}_{options.name}")
    with bar("download", "B") as progress:
        path = client.download(options.id, target, options.name, progress)
    return show(options, {"file": str(path)}, text=str(path))


def models(client: Client, options: argparse.Namespace) -> int:
    """Print a line for each model."""
    for model in client.models():
        name = clean(model.get("name") or model.get("id") or "")
        show(options, model, text=f"{name:32}{clean(model.get('licence') or '')}".rstrip())
    return 0


def delete(client: Client, options: argparse.Namespace) -> int:
    """Delete, and print what was deleted."""
    receipt = client.delete(options.id)
    text = f"deleted {len(receipt.get('deleted', []))} files, {receipt.get('bytes', 0)} bytes, of job {options.id}"
    return show(options, receipt, text=text)


ACTIONS: dict[str, Callable[[Client, argparse.Namespace], int]] = {
    "submit": submit,
    "validate": validate,
    "status": status,
    "logs": logs,
    "cancel": lambda client, options: show(options, client.cancel(options.id)),
    "resume": lambda client, options: show(options, client.resume(options.id)),
    "delete": delete,
    "download": download,
    "models": models,
}


def show(options: argparse.Namespace, answer: dict[str, Any], text: str | None = None) -> int:
    """Print ``answer`` as JSON, as ``text``, or as a job."""
    print(json.dumps(answer) if options.json else text if text is not None else "\n".join(job_lines(answer)))
    return 0


def job_lines(job: dict[str, Any]) -> Iterator[str]:
    """A job for people."""
    yield f"job      {clean(job['id'])}, {clean(job['base_model'] or '')}, attempt {job.get('attempt')}"
    yield f"state    {clean(job['state'])}{': ' + message(job) if message(job) else ''}"
    data, metrics, error = (job.get(name) or {} for name in ("dataset", "metrics", "error"))
    if data:
        yield f"data     {data.get('utterances')} recordings"
    if metrics.get("before") is not None and metrics.get("after") is not None:
        yield f"WER      {metrics['before']:.1%} before, {metrics['after']:.1%} after"
    if metrics.get("verdict"):
        yield f"verdict  {clean(metrics['verdict'])}"
    if error:
        yield f"error    {clean(error.get('message') or '')} ({clean(error.get('code') or '')})"
    yield from issue_lines(data)
    if job["state"] == "succeeded":
        yield f"model    python -m asr_lightning remote download {clean(job['id'])}"


def issue_lines(found: dict[str, Any]) -> Iterator[str]:
    """The first issues of a data set, and how many more there are."""
    issues = found.get("issues")
    if not isinstance(issues, list):
        return
    for issue in issues[:SHOWN_ISSUES]:
        yield f"{clean(issue.get('code'))} {clean(issue.get('name') or '')} {clean(issue.get('message') or '')}"
    if len(issues) > SHOWN_ISSUES:
        yield f"and {len(issues) - SHOWN_ISSUES} more: --json shows them"


def message(job: dict[str, Any]) -> str:
    """What a job is doing."""
    return clean((job.get("progress") or {}).get("message") or "")


def fraction(job: dict[str, Any]) -> float:
    """How far a job is, 0 to 1."""
    return float((job.get("progress") or {}).get("fraction") or 0)


def clean(text: object) -> str:
    """What a server says, without what a terminal would obey."""
    from asr_lightning.client.errors import printable

    return printable(str(text))


@contextmanager
def bar(name: str, unit: str) -> Iterator[Callable[..., None]]:
    """A progress bar on a terminal, elsewhere a line whenever the text changes; appears at its first step."""
    from tqdm import tqdm

    drawn: list[tqdm] = []
    said = [""]

    def moved(done: int, total: int, text: str = "") -> None:
        if not drawn:
            drawn.append(tqdm(desc=name, total=total, unit=unit, unit_scale=unit == "B", disable=None, leave=False))
        if drawn[0].disable and text != said[0]:
            print(text, file=sys.stderr)
        said[0] = text
        drawn[0].set_postfix_str(text, refresh=False)
        drawn[0].update(done - drawn[0].n)

    try:
        yield moved
    finally:
        for each in drawn:
            each.close()
