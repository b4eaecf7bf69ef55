"""``assignment.json``: what a trainer is to do. The server or a rented machine writes it, and ``run-job`` reads it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from asr_lightning.durable.files import read_json, write_json
from asr_lightning.job_folder import layout
from asr_lightning.job_folder.spec import JobSpec


@dataclass(frozen=True)
class Assignment:
    """The task of one trainer.

    Attributes:
        job: Id of the job.
        attempt: Number of this attempt, from 1 on.
        device: Device to train on: cpu, mps, cuda or cuda:<number>.
        source: The model, as ``--model`` takes it.
        spec: What the client asked for.
        resume: Whether to continue from the finished folds or the last whole checkpoint, if there are any.
    """

    job: str
    attempt: int
    device: str
    source: str
    spec: JobSpec
    resume: bool

    def write(self, folder: Path) -> None:
        """Write the ``assignment.json`` of the job in ``folder``.

        Raises:
            OSError: The file cannot be written.
        """
        write_json(folder / layout.ASSIGNMENT, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Assignment:
        """The assignment of the job in ``folder``.

        Raises:
            ValueError: The file is missing or damaged.
        """
        path = folder / layout.ASSIGNMENT
        document = read_json(path)
        try:
            if document is None:
                raise TypeError("it is missing or cut off")
            return cls(
                job=str(document["job"]),
                attempt=int(document["attempt"]),
                device=str(document["device"]),
                source=str(document["source"]),
                spec=JobSpec.from_json(document["spec"]),
                resume=bool(document["resume"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no assignment ({error}): let the server start this job") from error
