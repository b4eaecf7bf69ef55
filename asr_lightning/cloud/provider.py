"""What a provider of GPUs has to do. Small enough that a new one is an afternoon's work.

A provider keeps files in named volumes and runs ``remote.train`` on one of them. What the function writes is seen from
outside once it has committed. Nothing here knows a vendor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from asr_lightning.job_folder.spec import JobSpec

PREFIX = "asr-"
"""Of the name of every volume of ours; nothing without it is ever listed or deleted."""

State = Literal["running", "done", "gone"]
Moved = Callable[[int, int], None]
"""Called with the bytes done and the total."""


@dataclass(frozen=True)
class Request:
    """One training on a rented machine; the same for every provider.

    Attributes:
        id: Of the rental.
        spec: What to train.
        gpu: As the provider names it, such as "L4".
        max_seconds: The function stops by itself after that long, all its restarts together.
        source: What the trainer's ``--model`` takes.
        device: Where it trains: cpu, mps or cuda.
    """

    id: str
    spec: JobSpec
    gpu: str
    max_seconds: float
    source: str
    device: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON, and for ``remote.train``."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Request:
        """The inverse of ``as_dict``.

        Raises:
            TypeError: It is none.
        """
        return cls(**{**found, "spec": JobSpec(**found["spec"])})


class Provider(Protocol):
    """A vendor of GPUs with volumes.

    Every method may raise what its vendor's client raises; an ``OSError`` or a ``ValueError`` with a remedy is better.
    Paths inside a volume are relative and have forward slashes.
    """

    name: str

    def price(self, gpu: str) -> float:
        """List price of ``gpu`` in USD an hour.

        Raises:
            ValueError: It has no such GPU; the message lists those it has.
        """

    def create(self, volume: str) -> None:
        """Make a fresh, empty volume.

        Raises:
            ValueError: There is one of that name.
        """

    def upload(self, volume: str, source: Path, target: str) -> None:
        """Put a file of this machine into a volume; returns once it is there."""

    def spawn(self, volume: str, request: Request) -> str:
        """Start ``remote.train`` on the volume, and return the id of the call at once."""

    def poll(self, call: str) -> State:
        """Whether a call is under way; done: it returned or raised; gone: nobody knows it."""

    def read(self, volume: str, path: str, offset: int = 0) -> bytes | None:
        """Committed bytes of a file from ``offset`` on; None where there is no such file or volume."""

    def download(self, volume: str, path: str, target: Path, progress: Moved | None = None) -> None:
        """Copy a committed file to ``target``, which is replaced.

        Raises:
            OSError: It is not there, or did not arrive.
        """

    def cancel(self, call: str) -> None:
        """End a call; returns when it runs no more, in bounded time. Without effect on one that has ended."""

    def delete(self, volume: str) -> None:
        """Delete a volume with all it holds; without effect where there is none.

        What still runs on it is ended first, also a call whose id never reached the client.
        """

    def volumes(self) -> list[str]:
        """Names of the volumes of ours that there are."""


def volume_of(rental: str) -> str:
    """The name of a rental's volume."""
    return f"{PREFIX}{rental}"


def device_of(gpu: str) -> str:
    """The kind of device that a GPU's name stands for."""
    return gpu if gpu in ("cpu", "mps", "cuda") else "cuda"
