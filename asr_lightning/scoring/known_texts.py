"""Stores transcripts of untouched models, since the same weights write the same texts for the same input.

Reading dev, test and the canary with the untouched model takes longer than a short training, and every run on the same
recordings would repeat it. A store has one file per batch, named by a hash of everything that decides its texts. If
anything is wrong with a store, the texts are computed again and the run goes on. Knows no model. Texts of a trained
model are never looked up.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import os
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch

from asr_lightning._lazy import class_path
from asr_lightning.protocols import ASRAdapter
from asr_lightning.scoring import cache
from asr_lightning.types import SpeechBatch

logger = logging.getLogger(__name__)

SCHEMA = 1
"""Version of what is hashed and of the rules of decoding: increase it when a change of either changes a text."""

SHIPPED = Path(__file__).parents[1] / "canary_texts"
"""Texts of named models for the bundled canary; ``benchmarks/make_canary_texts.py`` makes them."""

MAX_BYTES = 64 * 2**20
"""Size of the store on this machine. A batch takes about 2 kB; the files that were used least recently go first."""

ROUNDING_PACKAGES = ("torch", "transformers", "numpy")
"""Packages of which another version may round in another way."""


@runtime_checkable
class HasTextOptions(Protocol):
    """An adapter whose texts can be stored. Those of other adapters are computed each time."""

    def text_options(self) -> Mapping[str, object]:
        """Everything besides weights and input that decides a text, as plain values."""
        ...


class BatchResult(NamedTuple):
    """Texts and loss that a model computes for one batch.

    Attributes:
        texts: Texts in the order of the batch.
        loss: Mean loss over ``weight`` terms; 0 if it was not asked for.
        weight: Number of terms of the loss.
    """

    texts: list[str]
    loss: float = 0.0
    weight: int = 0


@dataclass(frozen=True)
class TextStore:
    """A folder with the texts of one model in one mode of reading.

    Attributes:
        folder: The folder, with one file per batch.
        owner: Hash of the model and of what else decides its texts, except the input.
        batch_hash: Computes the hash of a batch.
        writable: Whether new texts are stored here.
    """

    folder: Path
    owner: str
    batch_hash: Callable[[SpeechBatch], str]
    writable: bool = True

    def path(self, kind: str, batch: SpeechBatch) -> Path:
        """The file for ``batch``; ``kind`` says what is computed for it."""
        return self.folder / f"{_sha256(SCHEMA, self.owner, kind, self.batch_hash(batch))}.json"

    def read(self, path: Path, batch: SpeechBatch) -> BatchResult | None:
        """The content of ``path``; None if it is missing or damaged."""
        try:
            result = BatchResult(**json.loads(path.read_text(encoding="utf-8")))
            texts = result.texts
            if not isinstance(texts, list) or len(texts) != len(batch) or not all(isinstance(t, str) for t in texts):
                raise ValueError("it has texts for another batch")
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, RecursionError) as error:
            logger.debug("%s cannot be used, and its texts are computed again: %s", path, error)
            return None
        if self.writable:
            with contextlib.suppress(OSError):
                os.utime(path)  # marks it as used, since the least recently used files are removed first
        return result

    def write(self, path: Path, result: BatchResult) -> None:
        """Write ``path`` in one step, so that other processes see all of it or nothing; only this user can read it."""
        temporary = ""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=self.folder)  # mode 0600
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(result._asdict(), file)
            Path(temporary).replace(path)
        except OSError as error:
            _warn_once(self.folder, str(error))
            with contextlib.suppress(OSError):
                Path(temporary).unlink()


@dataclass(frozen=True)
class KnownTexts:
    """The stores that may have texts of one model; without a store all texts are computed."""

    stores: tuple[TextStore, ...] = ()

    def get(self, kind: str, batch: SpeechBatch, compute: Callable[[SpeechBatch], BatchResult]) -> BatchResult:
        """The stored result for ``batch``. If there is none, compute it with ``compute`` and store it."""
        paths = [(store, store.path(kind, batch)) for store in self.stores]
        for store, path in paths:
            if (stored := store.read(path, batch)) is not None:
                return stored
        computed = compute(batch)
        for store, path in paths:
            if store.writable:
                store.write(path, computed)
        return computed


NOTHING_KNOWN = KnownTexts()


def find_known_texts(
    untouched: ASRAdapter, device: torch.device | str, shipped: Callable[[SpeechBatch], str] | None = None
) -> KnownTexts:
    """The stores with texts that this model has written before on ``device``.

    Args:
        untouched: A model that has not been trained, in the mode in which it will read: as trained, or ``native()``.
        device: Where the model computes. Other devices round in other ways, so they have texts of their own.
        shipped: Computes the hash of a batch of the bundled canary, whose texts may be part of this package; None for
            other recordings.
    """
    cache_folder = cache.folder()
    if not isinstance(untouched, HasTextOptions) or (cache_folder is None and shipped is None):
        return NOTHING_KNOWN
    model = model_hash(untouched)
    stores = []
    if shipped is not None:  # each named model has a folder; the hash in the file names tells which one this model is
        stores = [TextStore(folder, model, shipped, writable=False) for folder in sorted(SHIPPED.glob("*/"))]
    if cache_folder is not None:
        stores.append(TextStore(cache_folder / "texts", _sha256(model, _environment(device)), input_hash))
        _trim(cache_folder / "texts")
    return KnownTexts(tuple(stores))


def model_hash(adapter: ASRAdapter) -> str:
    """Hash of everything but the input that decides a model's texts: class, options, and name and value of weights.

    It is computed at each call, since an adapter remains the same object when it is trained. The 38 million weights of
    whisper-tiny take 0.1 s.
    """
    assert isinstance(adapter, HasTextOptions)
    options = json.dumps(dict(adapter.text_options()), sort_keys=True, default=str)
    digest = hashlib.sha256(f"{class_path(type(adapter))}\n{options}\n".encode())
    for name, tensor in (*adapter.model.named_parameters(), *adapter.model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def input_hash(batch: SpeechBatch) -> str:
    """Hash of a model's input for ``batch``: padded audio, prompt and transcripts, in order.

    The whole batch is hashed and not each clip, so that stored texts are exactly those that the model would write:
    products of matrices of other shapes may be rounded in another way, and some models are affected by padding.
    """
    tensors = {**batch.inputs, "targets": batch.targets, "seconds": batch.seconds, "lengths": batch.input_lengths}
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def hash_by_files(file_hashes: Mapping[str, str], sample_rate: int) -> Callable[[SpeechBatch], str]:
    """A function that hashes a batch by the audio files of its clips, in order.

    It is for texts that are shipped with this package. The files are the same on all machines, but decoders of Opus may
    differ in the last bit of a sample.

    Args:
        file_hashes: Hash of the file of each clip, by uid.
        sample_rate: Sample rate in Hz to which the files are decoded.
    """
    return lambda batch: _sha256(sample_rate, *(file_hashes[uid] for uid in batch.uids))


def _environment(device: torch.device | str) -> str:
    """Hash of everything that affects rounding: packages, processor, threads and the precision of matrix products."""
    kind = torch.device(device).type
    name = torch.cuda.get_device_name(device) if kind == "cuda" else torch.backends.cpu.get_cpu_capability()
    settings = (torch.get_num_threads(), torch.get_float32_matmul_precision())
    return _sha256(platform.machine(), kind, name, *settings, *map(version, ROUNDING_PACKAGES))


def _bytes(tensor: torch.Tensor) -> Any:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _sha256(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


@functools.cache
def _warn_once(folder: Path, error: str) -> None:
    logger.warning("texts cannot be kept in %s, and the next run will compute them again: %s", folder, error)


def _trim(folder: Path) -> None:
    """Remove the least recently used files until ``folder`` is small enough; other processes may do so as well."""
    with contextlib.suppress(OSError):
        files = sorted((status.st_mtime, status.st_size, path) for path, status in _files_with_status(folder))
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= MAX_BYTES:
                return
            path.unlink(missing_ok=True)
            total -= size


def _files_with_status(folder: Path) -> list[tuple[Path, os.stat_result]]:
    with os.scandir(folder) as entries:
        return [(Path(entry.path), entry.stat()) for entry in entries if entry.is_file(follow_symlinks=False)]
