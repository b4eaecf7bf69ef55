"""The loaders of batches. They know no recording and no model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from asr_lightning.datamodules.dataset import WholeBatches
from asr_lightning.protocols import Collator


class LateLoader(DataLoader):
    """A loader that does not use its sampler before the first batch is requested.

    When a run is resumed, Lightning makes the first iterator before it sets the epoch, and workers would read ahead.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()


def make_loader(
    kind: type[DataLoader], dataset: WholeBatches, sampler: Sampler, collator: Collator | None, num_workers: int
) -> DataLoader:
    """A loader of whole batches, which ``sampler`` names and ``collator`` makes.

    Raises:
        ValueError: There is no collator.
    """
    if collator is None:
        raise ValueError("no collator: pass collator=adapter.collator() to AudioFolderDataModule")
    # Lightning recommends more workers if there are fewer than two, but 0 is fastest for few clips.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    return kind(
        dataset,
        batch_size=None,  # the sampler yields whole batches
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collator,
        pin_memory=torch.cuda.is_available(),
        # A forked process may inherit a lock that an audio or BLAS thread holds, and hang. PyTorch itself limits
        # each worker to one thread.
        multiprocessing_context="spawn" if num_workers else None,
        persistent_workers=num_workers > 0,
    )
