"""The interface of a GPU provider, small enough that a new one takes an afternoon.

A provider keeps files in named volumes and runs ``remote.train`` on one of them. What that function writes can be read
from outside once it has been committed. Nothing in this module depends on a vendor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypedDict

from asr_lightning.job_folder.spec import JobSpec

PREFIX = "asr-"
"""Start of the name of each of our volumes; a volume without it is never listed or deleted."""
LOCAL_DEVICES = ("cpu", "mps", "cuda")
"""What ``--gpu`` may name for a training on this machine."""

State = Literal["running", "done", "gone"]
Moved = Callable[[int, int], None]
"""Called with the number of transferred bytes and the total."""


class SpecDocument(TypedDict):
    """A ``JobSpec`` as JSON."""

    model: str
    language: str | None
    epochs: int
    seed: int


class RequestDocument(TypedDict):
    """A ``Request`` as JSON: the argument of ``remote.train``."""

    id: str
    spec: SpecDocument
    gpu: str
    max_seconds: float
    source: str
    device: str


@dataclass(frozen=True)
class Request:
    """One training on a rented machine; the same for every provider.

    Attributes:
        id: Id of the rental.
        spec: What to train.
        gpu: The provider's name of the GPU, such as "L4".
        max_seconds: Time after which the training stops by itself; all restarts of the machine count together.
        source: The model, as the trainer's ``--model`` takes it.
        device: Device to train on: cpu, mps or cuda.
    """

    id: str
    spec: JobSpec
    gpu: str
    max_seconds: float
    source: str
    device: str

    def as_dict(self) -> RequestDocument:
        """The request as JSON."""
        return {
            "id": self.id,
            "spec": spec_document(self.spec),
            "gpu": self.gpu,
            "max_seconds": self.max_seconds,
            "source": self.source,
            "device": self.device,
        }

    @classmethod
    def from_dict(cls, document: RequestDocument) -> Request:
        """The inverse of ``as_dict``.

        Raises:
            KeyError: A field is missing.
        """
        return cls(
            id=document["id"],
            spec=JobSpec(**document["spec"]),
            gpu=document["gpu"],
            max_seconds=document["max_seconds"],
            source=document["source"],
            device=document["device"],
        )


def spec_document(spec: JobSpec) -> SpecDocument:
    """``spec`` as JSON."""
    return {"model": spec.model, "language": spec.language, "epochs": spec.epochs, "seed": spec.seed}


class Provider(Protocol):
    """A vendor of GPUs with volumes.

    Each method may raise any error of the vendor's client, but should raise an ``OSError`` or a ``ValueError`` that
    names a remedy. Paths inside a volume are relative and have forward slashes.
    """

    name: str

    def price(self, gpu: str) -> float:
        """List price of ``gpu`` in USD an hour.

        Raises:
            ValueError: The provider has no such GPU; the message lists those that it has.
        """

    def create(self, volume: str) -> None:
        """Create an empty volume.

        Raises:
            ValueError: A volume of that name exists.
        """

    def upload(self, volume: str, source: Path, target: str) -> None:
        """Copy the file ``source`` of this machine to ``target`` in a volume; returns once it is there."""

    def spawn(self, volume: str, request: Request) -> str:
        """Start ``remote.train`` on a volume, and return the id of the call without waiting for its end."""

    def poll(self, call: str) -> State:
        """State of a call: under way, done (it returned or raised), or gone (the provider does not know it)."""

    def read(self, volume: str, path: str, offset: int = 0) -> bytes | None:
        """Committed bytes of a file from ``offset`` on; None if there is no such file or volume."""

    def download(self, volume: str, path: str, target: Path, progress: Moved | None = None) -> None:
        """Copy a committed file to ``target``, which is replaced.

        Raises:
            OSError: The file does not exist, or did not arrive whole.
        """

    def cancel(self, call: str) -> None:
        """End a call, and return once it has ended, within a bounded time; does nothing if it has ended already."""

    def delete(self, volume: str) -> None:
        """Delete a volume with everything on it; does nothing if there is none.

        What still runs on it is ended first, even a call whose id never reached the client.
        """

    def volumes(self) -> list[str]:
        """Names of all our volumes that exist."""


def volume_of(rental: str) -> str:
    """Name of a rental's volume."""
    return f"{PREFIX}{rental}"


def device_of(gpu: str) -> str:
    """Device that a training on ``gpu`` uses."""
    return gpu if gpu in LOCAL_DEVICES else "cuda"


def save_blocks(blocks: Iterable[bytes], target: Path, total: int, progress: Moved | None, name: str) -> None:
    """Write the ``blocks`` of a download to ``target``, which is replaced once all ``total`` bytes have arrived.

    Args:
        blocks: The content of the file.
        target: File to write.
        total: Number of bytes that must arrive.
        progress: Called with the number of bytes that have arrived and ``total``.
        name: What an error calls the file, with the place that it comes from.

    Raises:
        OSError: Another number of bytes has arrived.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        with part.open("wb") as file:
            for block in blocks:
                file.write(block)
                if progress is not None:
                    progress(file.tell(), total)
        if part.stat().st_size != total:
            raise OSError(f"{name} has {total} bytes, but {part.stat().st_size} arrived: try again")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def wait_for_end(provider: Provider, call: str, within_s: float, pause_s: float, message: str) -> None:
    """Wait until a cancelled call has ended.

    Raises:
        TimeoutError: It still runs after ``within_s`` seconds; ``message`` says what to do.
    """
    deadline = time.monotonic() + within_s
    while provider.poll(call) == "running":
        if time.monotonic() > deadline:
            raise TimeoutError(message)
        time.sleep(pause_s)
