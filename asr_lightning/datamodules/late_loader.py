"""The loader of training batches, which can be made before the epoch is known. Knows no recording and no model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class LateLoader(DataLoader):
    """A loader that does not use its sampler before the first batch is requested.

    When a run is resumed, Lightning makes the first iterator before it sets the epoch, and workers would read ahead.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()
