"""``run-job``: one job of the training server, from its data set to verified artifacts and ``exit.json``.

It turns the server's assignment into a ``RunSpec``, and so trains as every other command does. The server starts it; a
person needs it only to see what a job does.
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

from asr_lightning.data.manifest import CSV_NAMES
from asr_lightning.durable import faults
from asr_lightning.durable.files import read_json, write_json
from asr_lightning.errors import OptionError, require_training
from asr_lightning.job_folder import failure, layout
from asr_lightning.job_folder.assignment import Assignment
from asr_lightning.job_folder.ending import Ending, Metrics, metrics_of
from asr_lightning.job_folder.failure import CANCELLED, Failure
from asr_lightning.job_folder.status import TrainerStatus
from asr_lightning.job_folder.worker import hold_locks, is_cancelled
from asr_lightning.run.spec import RunSpec
from asr_lightning.scoring import cache

logger = logging.getLogger(__name__)

STARTED = time.monotonic()
DATASET, RUN, ARTIFACTS = Path(layout.DATASET), Path(layout.RUN), Path(layout.ARTIFACTS)
CLIENT_SPLITS = Path("given.json")
"""Names the split files that came from the client, so that they are told from those that a killed attempt wrote."""
CLIENTS_OPTIONS = ("language", "epochs", "seed")
"""Options of a run that a client names in its request."""
LEFTOVERS = (
    "run/tmp*",
    "run/model.new",
    "run/checkpoints/new.ckpt",
    "run/checkpoints/best/new.*",
    "run/checkpoints/folds/*.half",
    "artifacts.new",
    "dataset/.*_files.csv.*.tmp",
)
"""Files that a kill or a full disk may leave half written. Nothing reads them."""


def run(command: str, arguments: list[str]) -> int:
    """Do the job; returns 0 only after a success that ``exit.json`` records."""
    parser = argparse.ArgumentParser(prog="python -m asr_lightning run-job", description=__doc__, allow_abbrev=False)
    parser.add_argument("job", type=Path, help="folder of the job, with assignment.json and dataset/")
    job = parser.parse_args(arguments).job.resolve()
    hold_locks()
    os.environ[cache.VARIABLE] = cache.OFF  # deleting the job's folder must delete every text of it
    assignment = Assignment.read(job)
    if temporary := os.environ.get("TMPDIR"):
        Path(temporary).mkdir(exist_ok=True)
    status = TrainerStatus(job, assignment.attempt, assignment.spec.epochs)
    with contextlib.chdir(job):  # relative paths keep the host's layout out of reports and configurations
        return _train_and_record(job, assignment, status)


def _train_and_record(job: Path, assignment: Assignment, status: TrainerStatus) -> int:
    """Do the job, and write ``exit.json`` last. A stop from outside writes none, so that the server tries again."""
    try:
        status.start()
        artifacts, metrics = _train(assignment, status)
        ending = Ending(assignment.attempt, None, artifacts, metrics)
    except BaseException as error:
        traceback.print_exc()
        if type(error).__name__ == "SIGTERMException" and not is_cancelled(job):  # Lightning's, of 2.4 and 2.6
            status.close()
            return 128 + signal.SIGTERM
        _remove_leftovers()
        ending = Ending.failed(assignment.attempt, _failure(error, job, assignment))
    try:
        faults.point("training.ending")
        status.close()
        status.end(ending)
    except OSError as error:
        sys.stderr.write(f"error: exit.json cannot be written: {error}\n")
        return 1
    return ending.code


def _failure(error: BaseException, job: Path, assignment: Assignment) -> Failure:
    """The failure for ``exit.json``. SIGTERM on a cancelled job counts as the cancellation."""
    if is_cancelled(job) and type(error).__name__ == "SIGTERMException":
        return CANCELLED
    if isinstance(error, OptionError) and error.param in CLIENTS_OPTIONS:
        return Failure("invalid_parameter", failure.one_line(str(error), job), error.param)
    return failure.failure_of(error, job)


def _train(assignment: Assignment, status: TrainerStatus) -> tuple[dict[str, str], Metrics | None]:
    """Train and package; returns the hash of each artifact by name, and the metrics."""
    require_training("run-job")
    from asr_lightning.callbacks.job_status import JobStatus
    from asr_lightning.cli import lightning_cli
    from asr_lightning.job_folder import packaging

    _remove_leftovers()
    checkpoint = _last_checkpoint() if assignment.resume else None
    if checkpoint is None:
        shutil.rmtree(RUN, ignore_errors=True)  # of an attempt without a checkpoint, or one that is not to be resumed
        _remove_our_splits()
    else:
        (RUN / "results.json").unlink(missing_ok=True)  # never delivered, and so not kept when they are made again
        status.update(resumed_from=checkpoint.name)
    faults.point("training.loading")
    spec = spec_of(assignment, resumed=checkpoint is not None)
    outcome = lightning_cli.run(spec, started=STARTED, callbacks=[JobStatus(status)], log_clips=False).outcome
    assert outcome is not None, "a job is one process"
    status.phase("packaging", "packaging model", fraction=0.97)
    artifacts = packaging.package(RUN, ARTIFACTS)
    faults.point("training.packaged")
    status.update(fraction=1.0)
    return artifacts, metrics_of({"metrics": outcome.as_metrics()})


def _last_checkpoint() -> Path | None:
    """The file that a resumed training starts from: the last finished fold, or the last whole checkpoint."""
    from asr_lightning.run import folds
    from asr_lightning.training import checkpoints

    finished = folds.finished(RUN)
    return finished[-1] if finished else checkpoints.newest(RUN / "checkpoints")


def spec_of(assignment: Assignment, resumed: bool) -> RunSpec:
    """The run that an assignment asks for, in the job's folder."""
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


def _remove_our_splits() -> None:
    """Leave only the client's CSVs in the data set: a kill between the three that we write would give another split."""
    record = read_json(CLIENT_SPLITS)
    if record is None:
        record = {"splits": [name for name in CSV_NAMES.values() if (DATASET / name).exists()]}
        write_json(CLIENT_SPLITS, record)
    for name in CSV_NAMES.values():
        if name not in record["splits"]:
            (DATASET / name).unlink(missing_ok=True)


def _remove_leftovers() -> None:
    for pattern in LEFTOVERS:
        for path in Path().glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
