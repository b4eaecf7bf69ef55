"""Sums over utterances that are exact even if several processes share the work. Knows no model and no text.

Two processes may score the same clip, since all of them must run equally many batches. Values are therefore stored with
a key of the utterance and count once. torchmetrics' own WER adds up sums of processes, so such a clip would count twice
(PyTorch #25162).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from asr_lightning.scoring.edits import EditCounts, ErrorRates, UtteranceCounts, error_rates


class PerUtterance(Metric):
    """One row of numbers per utterance, gathered over all processes, with each utterance once.

    Args:
        dtype: Type of the numbers: int64 for counts, float32 for losses (MPS has no float64).
    """

    full_state_update = False
    keys: list[Tensor]
    rows: list[Tensor]

    def __init__(self, dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.row_dtype = dtype
        self.add_state("keys", default=[], dist_reduce_fx="cat")
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, uids: Sequence[str], rows: Sequence[Sequence[float]]) -> None:
        """Add one row for each utterance.

        Raises:
            ValueError: ``uids`` and ``rows`` differ in length.
        """
        if len(uids) != len(rows):
            raise ValueError(f"{len(uids)} utterances but {len(rows)} rows")
        self.keys.append(torch.tensor([_key(uid) for uid in uids], device=self.device))
        self.rows.append(torch.tensor(rows, dtype=self.row_dtype, device=self.device))

    def compute(self) -> Tensor:
        """All rows ``[utterances, columns]`` on the CPU; their order does not depend on the number of processes."""
        keys, rows = (torch.cat(state).cpu() if isinstance(state, list) else state.cpu() for state in self._states())
        _, inverse = torch.unique(keys, return_inverse=True)
        first = torch.full((int(inverse.max()) + 1,), len(keys)).scatter_reduce_(
            0, inverse, torch.arange(len(keys)), reduce="amin"
        )
        return rows[first]

    def _states(self) -> tuple[list[Tensor] | Tensor, list[Tensor] | Tensor]:
        return self.keys, self.rows


def _key(uid: str) -> int:
    """A 63-bit number for ``uid``, since tensors can be gathered over processes and strings cannot."""
    return int.from_bytes(hashlib.blake2b(uid.encode(), digest_size=8).digest(), "big") >> 1


def counts_row(counts: UtteranceCounts) -> list[int]:
    """The row for ``PerUtterance`` that ``rates`` reads."""
    return [*counts.words, *counts.characters]


def rates(rows: Tensor) -> ErrorRates:
    """Error rates of the rows that ``counts_row`` has made, int64 ``[utterances, 8]``."""
    return error_rates([UtteranceCounts(EditCounts(*row[:4]), EditCounts(*row[4:])) for row in rows.tolist()])


def weighted_mean(rows: Tensor) -> float:
    """The mean loss of rows ``(loss * weight, weight)``: the sum of the first column divided by that of the second."""
    totals = rows.double().sum(dim=0)
    return float(totals[0] / totals[1])
