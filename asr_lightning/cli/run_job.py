"""``run-job``: one job of the training server, from its data set to verified artifacts and ``exit.json``.

Makes a ``RunSpec`` of what the server asks for; there is no second training path. The server starts it; a person needs
it only to see what a job does.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from asr_lightning.data.manifest import CSV_NAMES
from asr_lightning.durable import faults
from asr_lightning.durable.files import read_json, write_json
from asr_lightning.errors import OptionError
from asr_lightning.job_folder import ending
from asr_lightning.job_folder.assignment import Assignment
from asr_lightning.job_folder.status import TrainerStatus
from asr_lightning.job_folder.worker import hold_locks, is_cancelled
from asr_lightning.run.spec import RunSpec
from asr_lightning.scoring import cache

logger = logging.getLogger(__name__)

STARTED = time.monotonic()
DATASET, RUN, ARTIFACTS, GIVEN = Path("dataset"), Path("run"), Path("artifacts"), Path("given.json")
LEFTOVERS = (
    "run/tmp*",
    "run/model.new",
    "run/checkpoints/new.ckpt",
    "run/checkpoints/best/new.*",
    "run/checkpoints/folds/*.half",
    "artifacts.new",
    "dataset/.*_files.csv.*.tmp",
)
"""What a kill or a full disk leaves half written; never read."""


def run(command: str, arguments: list[str]) -> int:
    """Do the job; returns 0 only after a success that ``exit.json`` tells of."""
    parser = argparse.ArgumentParser(prog="python -m asr_lightning run-job", description=__doc__, allow_abbrev=False)
    parser.add_argument("job", type=Path, help="folder of the job, with assignment.json and dataset/")
    job = parser.parse_args(arguments).job.resolve()
    hold_locks()
    os.environ[cache.VARIABLE] = cache.OFF  # a job leaves no text outside its folder: deleting it deletes all
    assignment = Assignment.read(job)
    if temporary := os.environ.get("TMPDIR"):
        Path(temporary).mkdir(exist_ok=True)
    status = TrainerStatus(job, assignment.attempt, assignment.spec.epochs)
    with contextlib.chdir(job):  # relative paths keep the host's layout out of reports and configurations
        return _ended(job, assignment, status)


def _ended(job: Path, assignment: Assignment, status: TrainerStatus) -> int:
    """Work, and write ``exit.json`` last; a stop from outside writes none, so that the server tries again."""
    try:
        status.start()
        artifacts, metrics = _work(assignment, status)
        found: dict[str, Any] = {"code": 0, "error": None, "artifacts": artifacts, "metrics": metrics}
    except BaseException as error:
        traceback.print_exc()
        if type(error).__name__ == "SIGTERMException" and not is_cancelled(job):  # Lightning's, of 2.4 and 2.6
            status.close()
            return 128 + signal.SIGTERM
        _remove_leftovers()
        found = {"code": 1, "error": _error(error, job, assignment), "artifacts": {}, "metrics": None}
    try:
        faults.point("training.ending")
        status.close()
        status.end(found)
    except OSError as error:
        sys.stderr.write(f"error: exit.json cannot be written: {error}\n")
        return 1
    return int(found["code"])


def _error(error: BaseException, job: Path, assignment: Assignment) -> ending.Error:
    """The error of ``exit.json``; after SIGTERM on a cancelled job that it was cancelled."""
    if is_cancelled(job) and type(error).__name__ == "SIGTERMException":
        return ending.error_of(ending.CancelledError(), job)
    refused = {"code": "invalid_parameter", "param": "language"}
    if isinstance(error, OptionError) and error.param == "language":  # the adapter's
        return refused | {"message": ending.one_line(str(error), job)}
    if isinstance(error, OptionError) and assignment.spec.language is not None:  # the parser's: there is no such option
        return refused | {"message": f"{assignment.spec.model} takes no language: leave it out"}
    return ending.error_of(error, job)


def _work(assignment: Assignment, status: TrainerStatus) -> tuple[dict[str, str], dict[str, Any]]:
    """Train and package; returns hashes of the artifacts, and metrics."""
    from asr_lightning.callbacks.job_status import JobStatus
    from asr_lightning.cli import lightning_cli
    from asr_lightning.job_folder import packaging

    _remove_leftovers()
    last = _last() if assignment.resume else None
    if last is None:
        shutil.rmtree(RUN, ignore_errors=True)  # from an attempt that never got to a checkpoint, or is not wanted
        _remove_made_splits()
    else:
        status.update(resumed_from=last.name)
    faults.point("training.loading")
    spec = spec_of(assignment, resumed=last is not None)
    outcome = lightning_cli.run(spec, started=STARTED, callbacks=[JobStatus(status)], log_clips=False).outcome
    assert outcome is not None, "a job is one process"
    status.phase("packaging", "packaging model", fraction=0.97)
    artifacts = packaging.package(RUN, ARTIFACTS)
    faults.point("training.packaged")
    status.update(fraction=1.0)
    return artifacts, outcome.as_metrics()


def _last() -> Path | None:
    """What an earlier attempt got to: its last finished fold, or the last whole checkpoint."""
    from asr_lightning.run import folds
    from asr_lightning.training import checkpoints

    done = folds.finished(RUN)
    return done[-1] if done else checkpoints.newest(RUN / "checkpoints")


def spec_of(assignment: Assignment, resumed: bool) -> RunSpec:
    """The run that it asks for, in the job's folder."""
    kind, _, number = assignment.device.partition(":")
    return RunSpec(
        data=DATASET,
        run_dir=RUN,
        model=assignment.source,
        language=assignment.spec.language,
        epochs=assignment.spec.epochs,
        seed=assignment.spec.seed,
        accelerator=kind,
        devices=(int(number),) if number else 1,
        resume=resumed,
    )


def _remove_made_splits() -> None:
    """Leave only the client's CSVs in the data set: a kill between the three that we write would give another split."""
    given = read_json(GIVEN)
    if given is None:
        given = {"splits": [name for name in CSV_NAMES.values() if (DATASET / name).exists()]}
        write_json(GIVEN, given)
    for name in CSV_NAMES.values():
        if name not in given["splits"]:
            (DATASET / name).unlink(missing_ok=True)


def _remove_leftovers() -> None:
    for pattern in LEFTOVERS:
        for path in Path().glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
