"""Texts that an untouched model has written before: the same weights on the same input write the same again.

Reading dev, test and the canary with the untouched model takes longer than a short training, and every run on the same
recordings repeats it. A store has one file for each batch, named by a hash of all that decides its text. Whatever goes
wrong with it costs time and never a run. Knows no model; a trained model is never looked up.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from asr_lightning.adapters import saved
from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring import cache as places
from asr_lightning.types import SpeechBatch

logger = logging.getLogger(__name__)

SCHEMA = 1
"""Of what is hashed and of the rules that texts are decoded by: raise it when a change of either changes a text."""

SHIPPED = Path(__file__).parents[1] / "canary_texts"
"""Texts of the bundled canary by models that have a name; ``benchmarks/make_canary_texts.py`` makes them."""

MAX_BYTES = 64 * 2**20
"""Of the store on this machine. A batch takes about 2 kB; what was not used for longest is removed first."""

DECIDERS = ("torch", "transformers", "numpy")
"""Packages whose other version may round another way."""


@runtime_checkable
class HasTextOptions(Protocol):
    """An adapter whose texts can be known. Others are computed each time."""

    def text_options(self) -> Mapping[str, Any]:
        """All that decides its text beside weights and input, as plain values."""
        ...


class Known(NamedTuple):
    """What a model makes of one batch.

    Attributes:
        texts: In the order of the batch.
        loss: Mean over ``weight`` terms; 0 where it was not asked for.
        weight: Terms.
    """

    texts: list[str]
    loss: float = 0.0
    weight: int = 0


@dataclass(frozen=True)
class Shelf:
    """A folder of texts of one model in one way of reading.

    Attributes:
        folder: One file a batch.
        owner: Hash of the model, and of what else decides.
        content: Hash of a batch.
        writable: Whether new texts are kept here.
    """

    folder: Path
    owner: str
    content: Callable[[SpeechBatch], str]
    writable: bool = True

    def path(self, kind: str, batch: SpeechBatch) -> Path:
        """The file of ``batch``; ``kind`` says what is asked of it."""
        return self.folder / f"{_sha256(SCHEMA, self.owner, kind, self.content(batch))}.json"

    def find(self, path: Path, batch: SpeechBatch) -> Known | None:
        """What ``path`` says; None where it is missing or damaged."""
        try:
            found = Known(**json.loads(path.read_text(encoding="utf-8")))
            texts = found.texts
            if not isinstance(texts, list) or len(texts) != len(batch) or not all(isinstance(t, str) for t in texts):
                raise ValueError("it has texts for another batch")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            logger.debug("%s cannot be used, and is computed anew: %s", path, error)
            return None
        if self.writable:
            with contextlib.suppress(OSError):
                os.utime(path)  # used lately: what was not is removed first
        return found

    def keep(self, path: Path, known: Known) -> None:
        """Write ``path``, readable by this user alone; it appears as a whole, so that two processes do not disturb."""
        temporary = ""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            number, temporary = tempfile.mkstemp(dir=self.folder)  # mode 0600
            with os.fdopen(number, "w", encoding="utf-8") as file:
                json.dump(known._asdict(), file)
            Path(temporary).replace(path)
        except OSError as error:
            _say_once(self.folder, str(error))
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


@dataclass(frozen=True)
class KnownTexts:
    """Where the texts of one model may be found; without a shelf all are computed."""

    shelves: tuple[Shelf, ...] = ()

    def of(self, kind: str, batch: SpeechBatch, compute: Callable[[SpeechBatch], Known]) -> Known:
        """What is known of ``batch``, else ``compute(batch)``, which is kept."""
        paths = [(shelf, shelf.path(kind, batch)) for shelf in self.shelves]
        for shelf, path in paths:
            if (found := shelf.find(path, batch)) is not None:
                return found
        computed = compute(batch)
        for shelf, path in paths:
            if shelf.writable:
                shelf.keep(path, computed)
        return computed


NOTHING_KNOWN = KnownTexts()


def of_untouched(
    adapter: ASRAdapter, device: torch.device | str, shipped: Callable[[SpeechBatch], str] | None = None
) -> KnownTexts:
    """What was written before by the model in ``adapter``, whose weights nobody has trained, computing on ``device``.

    Args:
        adapter: In the way that it will read: as trained, or ``native()``.
        device: Where it computes. Another device rounds another way, so it has texts of its own.
        shipped: Hash of a batch of the bundled canary, to look its text up in the package as well.
    """
    place = places.folder()
    if not isinstance(adapter, HasTextOptions) or (place is None and shipped is None):
        return NOTHING_KNOWN
    model = digest(adapter)
    shelves = []
    if shipped is not None:  # a folder for each model that has a name; the hash says which of them it is
        shelves = [Shelf(folder, model, shipped, writable=False) for folder in sorted(SHIPPED.glob("*/"))]
    if place is not None:
        shelves.append(Shelf(place / "texts", _sha256(model, _environment(device)), fed))
        _trim(place / "texts")
    return KnownTexts(tuple(shelves))


def digest(adapter: ASRAdapter) -> str:
    """Hash of what decides a model's text beside its input: weights, by name, type and value, class and options.

    Computed anew each time, since a model that is trained keeps its identity as an object: 0.1 s for the 38 million
    weights of whisper-tiny.
    """
    assert isinstance(adapter, HasTextOptions)
    options = json.dumps(dict(adapter.text_options()), sort_keys=True, default=str)
    hashed = hashlib.sha256(f"{saved.class_path(adapter)}\n{options}\n".encode())
    for name, tensor in (*adapter.model.named_parameters(), *adapter.model.named_buffers()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(_bytes(tensor))
    return hashed.hexdigest()


def fed(batch: SpeechBatch) -> str:
    """Hash of what a model is fed with ``batch``: padded audio, prompt and transcripts, in order.

    It is the whole batch and not a clip, so that texts are those of a run without the store to the last bit: a
    product of matrices of another shape may be rounded another way, and some models hear the padding.
    """
    named = {**batch.inputs, "targets": batch.targets, "seconds": batch.seconds, "lengths": batch.input_lengths}
    hashed = hashlib.sha256()
    for name, tensor in sorted(named.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(_bytes(tensor))
    return hashed.hexdigest()


def files(hashes: Mapping[str, str], sample_rate: int) -> Callable[[SpeechBatch], str]:
    """A hash of batches by the files of their clips, by uid, in order.

    For what is shipped: the files are the same everywhere, and what decoders of Opus make of them may differ from one
    machine to another in the last bit.
    """
    return lambda batch: _sha256(sample_rate, *(hashes[uid] for uid in batch.uids))


def _environment(device: torch.device | str) -> str:
    """What rounds: packages, processor, threads, and how products of float32 are made."""
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    settings = (torch.get_num_threads(), torch.get_float32_matmul_precision())
    return _sha256(platform.machine(), kind, name, *settings, *map(version, DECIDERS))


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _sha256(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


@cache
def _say_once(folder: Path, error: str) -> None:
    logger.warning("texts cannot be kept in %s, and the next run will compute them again: %s", folder, error)


def _trim(folder: Path) -> None:
    """Remove what was not used for longest, as far as ``folder`` is too large; another process may do so as well."""
    with contextlib.suppress(OSError):
        found = sorted((status.st_mtime, status.st_size, path) for path, status in _listed(folder))
        size = sum(size for _, size, _ in found)
        for _, bytes_, path in found:
            if size <= MAX_BYTES:
                return
            path.unlink(missing_ok=True)
            size -= bytes_


def _listed(folder: Path) -> list[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        return [(Path(entry.path), entry.stat()) for entry in entries if entry.is_file(follow_symlinks=False)]
