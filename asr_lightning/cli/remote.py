"""``remote``: train on another machine and download the model. The client is imported only when it is used."""

from __future__ import annotations

import argparse
import codecs
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from asr_lightning.cli.terminal import bar, one_line, visible_text
from asr_lightning.errors import require_extra
from asr_lightning.run.spec import DEFAULT_MODEL

if TYPE_CHECKING:
    from asr_lightning.client import Client
    from asr_lightning.client.answers import Dataset, Job, ProblemDetails

SERVER = "http://127.0.0.1:5553"
DESCRIPTION = "Train on another machine, where python -m asr_lightning serve runs, and download the model from there."
EPILOG = "The token comes from ASR_SERVER_TOKEN. It is not an option, because other users of this machine see options."
SHOWN_ISSUES = 10


def parser() -> argparse.ArgumentParser:
    """The parser for ``remote``."""
    options = argparse.ArgumentParser(
        prog="python -m asr_lightning remote", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False
    )
    everywhere = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    everywhere.add_argument(
        "--server", default=os.environ.get("ASR_SERVER", SERVER), help=f"its address; default: ASR_SERVER, or {SERVER}"
    )
    everywhere.add_argument("--json", action="store_true", help="print the server's answer as JSON, for programs")
    actions = options.add_subparsers(dest="action", required=True, metavar="ACTION")

    def add(name: str, text: str, job: str | None = None) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text, parents=[everywhere], allow_abbrev=False)
        if job:
            action.add_argument("id", nargs="?" if job == "?" else None, help="id of a job")
        return action

    _submit_options(add("submit", "pack a folder of recordings, send it, and train"))
    add("validate", "inspect recordings on the server, without training").add_argument("data", type=Path, help=DATA)
    add("status", "show one job, or list all of them", job="?")
    log = add("logs", "print the trainer's log", job="1")
    log.add_argument("--follow", action="store_true", help=FOLLOW)
    log.add_argument("--intake", action="store_true", help="print the log of the data inspection instead")
    add("cancel", "stop a job", job="1")
    add("resume", "continue a job that was interrupted, failed or cancelled", job="1")
    add("delete", "delete a job with its recordings and models", job="1")
    fetch = add("download", "download the model", job="1")
    fetch.add_argument("-o", "--output", type=Path, help="file or folder to write; default: ID_model.tar.gz")
    fetch.add_argument("--name", default="model.tar.gz", help="artifact to download instead, such as report.html")
    add("models", "list the models that the server trains")
    add("uploads", "list uploads that no job has taken, or delete some").add_argument(
        "--delete", nargs="+", metavar="ID", help="delete these instead"
    )
    return options


DATA = "folder with <UID>.wav (or mp3, …) and <UID>.txt, or a tar.gz of one"
FOLLOW = "continue until the job is over"


def _submit_options(action: argparse.ArgumentParser) -> None:
    action.add_argument("data", type=Path, help=DATA)
    action.add_argument("--model", default=DEFAULT_MODEL, help=f"a name of remote models; default: {DEFAULT_MODEL}")
    action.add_argument("--language", help="language of the recordings, such as de; for multilingual models only")
    action.add_argument("--epochs", type=int, help="number of epochs, 1 to 100; default: chosen by the server")
    action.add_argument("--seed", type=int, help="seed of the random split and of training")
    action.add_argument("--key", help="a name of your choice: a repeated command with it finds the first job")
    action.add_argument("--follow", action="store_true", help="show the progress until the job is over")


def run(command: str, arguments: list[str]) -> int:
    """Carry out the action; returns the exit status, which is 1 if the job did not succeed."""
    options = parser().parse_args(arguments)
    for module in ("httpx", "tqdm"):
        require_extra("server", module, "the client of the training server")
    from asr_lightning.client import Client, ServerError

    # 8 retries take half a minute: worth it for long transfers, while a quick request should fail quickly.
    is_long = options.action in ("submit", "logs", "download")
    with Client(options.server, retries=8 if is_long else 2) as client:
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
    """Send the recordings, and wait for the end of the job with ``--follow``."""
    with bar("packing", "clips") as packing, bar("sending", "B") as sending:
        job = client.submit(
            options.data, options.model, options.language, options.epochs, options.seed, options.key, packing, sending
        )
    if not options.follow:
        return show(options, job, f"job {one_line(job['id'])} {one_line(job['state'])}")
    print(f"job {one_line(job['id'])}", file=sys.stderr)
    with bar("training", "%") as training:
        job = client.wait(job["id"], lambda now: training(round(100 * fraction(now)), 100, message(now)))
    show_job(options, job)
    return int(job["state"] != "succeeded")


def validate(client: Client, options: argparse.Namespace) -> int:
    """Print the issues of the recordings, and the verdict."""
    with bar("packing", "clips") as packing:
        verdict = client.validate(options.data, packing)
    text = f"{verdict['utterances']} recordings, {verdict['seconds']:.0f} s: good to train"
    return show(options, verdict, "\n".join([*issue_lines(verdict), text]))


def status(client: Client, options: argparse.Namespace) -> int:
    """Print one job, or a line for each job."""
    if options.id:
        return show_job(options, client.job(options.id))
    any_job = False
    for job in client.jobs():
        any_job = True
        columns = [f"{one_line(job['id']):21}", f"{one_line(job['state']):11}", minute(job["created_at"])]
        show(options, job, "  ".join([*columns, f"{one_line(job['base_model'] or ''):20}", message(job)]).rstrip())
    if not any_job and not options.json:
        print(f"{options.server} has no jobs: python -m asr_lightning remote submit FOLDER starts one")
    return 0


def minute(time: str) -> str:
    """A time of the server, which is UTC and in ISO 8601, to the minute."""
    return f"{one_line(time)[:16].replace('T', ' ')} UTC"


def uploads(client: Client, options: argparse.Namespace) -> int:
    """Print a line for each upload that no job has taken yet, or delete some."""
    for upload_id in options.delete or ():
        client.delete_upload(upload_id)
        print(f"deleted upload {one_line(upload_id)}", file=sys.stderr)
    if options.delete:
        return 0
    listed = client.uploads()
    if not listed and not options.json:
        print(f"{options.server} has no open uploads")
    for upload in listed:
        size = f" of {upload['size']}" if upload.get("size") is not None else ""
        show(options, upload, f"{one_line(upload['id']):21}  {upload['received']}{size} bytes")
    return 0


def logs(client: Client, options: argparse.Namespace) -> int:
    """Print the log, without control characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for block in client.logs(options.id, options.follow, name="intake" if options.intake else "trainer"):
        print(visible_text(decoder.decode(block)), end="", flush=True)
    return 0


def download(client: Client, options: argparse.Namespace) -> int:
    """Download an artifact."""
    target = options.output or Path(f"{options.id}_{options.name}")
    with bar("download", "B") as progress:
        path = client.download(options.id, target, options.name, progress)
    return show(options, {"file": str(path)}, str(path))


def models(client: Client, options: argparse.Namespace) -> int:
    """Print a line for each model."""
    for model in client.models():
        name = one_line(model.get("name") or "")
        show(options, model, f"{name:32}{one_line(model.get('licence') or '')}".rstrip())
    return 0


def delete(client: Client, options: argparse.Namespace) -> int:
    """Delete a job, and print how much was deleted."""
    receipt = client.delete(options.id)
    text = f"deleted {len(receipt.get('deleted', []))} files, {receipt.get('bytes', 0)} bytes, of job {options.id}"
    return show(options, receipt, text)


ACTIONS: dict[str, Callable[[Client, argparse.Namespace], int]] = {
    "submit": submit,
    "validate": validate,
    "status": status,
    "logs": logs,
    "cancel": lambda client, options: show_job(options, client.cancel(options.id)),
    "resume": lambda client, options: show_job(options, client.resume(options.id)),
    "delete": delete,
    "download": download,
    "models": models,
    "uploads": uploads,
}


def show(options: argparse.Namespace, answer: Mapping[str, object], text: str) -> int:
    """Print ``answer`` with ``--json``, otherwise ``text``; returns the exit status 0."""
    print(json.dumps(answer) if options.json else text)
    return 0


def show_job(options: argparse.Namespace, job: Job) -> int:
    """Print a job in full; returns the exit status 0."""
    return show(options, job, "\n".join(job_lines(job)))


def job_lines(job: Job) -> Iterator[str]:
    """The lines that describe a job to a person."""
    yield f"job      {one_line(job['id'])}, {one_line(job['base_model'] or '')}, attempt {job.get('attempt')}"
    dataset, metrics, error = job.get("dataset") or {}, job.get("metrics") or {}, job.get("error") or {}
    verdict, doing = one_line(metrics.get("verdict") or ""), message(job)
    if verdict and verdict in doing:  # it has a line of its own
        doing = ""
    yield f"state    {one_line(job['state'])}{': ' + doing if doing else ''}"
    if dataset:
        yield f"data     {dataset.get('utterances')} recordings"
    before, after = metrics.get("before"), metrics.get("after")
    if before is not None and after is not None:
        yield f"WER      {before:.1%} before, {after:.1%} after"
    if verdict:
        yield f"verdict  {verdict}"
    if error:
        yield f"error    {one_line(error.get('message') or '')} ({one_line(error.get('code') or '')})"
    yield from issue_lines(dataset)
    damage = job.get("damage") or []
    for damaged in damage:
        yield f"damage   {one_line(damaged.get('message') or '')}"
    if job["state"] == "succeeded" and not damage:
        yield f"model    python -m asr_lightning remote download {one_line(job['id'])}"


def issue_lines(answer: Dataset | ProblemDetails) -> Iterator[str]:
    """The first issues of the recordings, and how many more there are."""
    issues = answer.get("issues")
    if not isinstance(issues, list):
        return
    for issue in issues[:SHOWN_ISSUES]:
        yield " ".join(one_line(text or "") for text in (issue.get("code"), issue.get("name"), issue.get("message")))
    if len(issues) > SHOWN_ISSUES:
        yield f"and {len(issues) - SHOWN_ISSUES} more: --json shows them"


def message(job: Job) -> str:
    """What a job is doing, in words."""
    return one_line((job.get("progress") or {}).get("message") or "")


def fraction(job: Job) -> float:
    """How far a job is, from 0 to 1."""
    return float((job.get("progress") or {}).get("fraction") or 0)
