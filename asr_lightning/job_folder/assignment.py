"""What a trainer is to do: written by whoever starts it, a server or a rented machine, and read by ``run-job``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path

from asr_lightning.durable.files import read_json, write_json
from asr_lightning.job_folder.spec import JobSpec

NAME = "assignment.json"


@dataclass(frozen=True)
class Assignment:
    """What is asked of one trainer.

    Attributes:
        job: Id of the job.
        attempt: Of the job, from 1 on.
        device: cpu, mps, cuda or cuda:<number>.
        source: What ``--model`` takes.
        spec: The job's.
        resume: Go on from the folds that are finished, or from the last whole checkpoint, if there are any.
    """

    job: str
    attempt: int
    device: str
    source: str
    spec: JobSpec
    resume: bool

    def write(self, folder: Path) -> None:
        """Put it into the job's ``folder``, as a whole.

        Raises:
            OSError: It cannot be written.
        """
        write_json(folder / NAME, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Assignment:
        """That of the job's ``folder``.

        Raises:
            ValueError: It is missing, or not one.
        """
        found = read_json(folder / NAME)
        try:
            if found is None:
                raise TypeError("it is missing or cut off")
            known = {field.name for field in fields(JobSpec)}
            return cls(
                job=str(found["job"]),
                attempt=int(found["attempt"]),
                device=str(found["device"]),
                source=str(found["source"]),
                spec=JobSpec(**{name: value for name, value in found["spec"].items() if name in known}),
                resume=bool(found["resume"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / NAME} is no assignment ({error}): let the server start this job") from error
