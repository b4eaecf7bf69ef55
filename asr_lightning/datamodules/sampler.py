"""Which utterances share a batch: narrow duration buckets in training, one fixed order in dev and test.

Knows seconds and counts only. Batches are cut first and dealt to the processes after, so that their number never
changes who shares a batch. ``DistributedSampler`` is the base because Lightning wraps, and so splits, all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch.utils.data import DistributedSampler

from asr_lightning.datamodules.dataset import Pick

JITTER = 0.1  # a clip may change places with clips up to this share longer or shorter, so company varies by epoch


def cut(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """``order`` in as few batches of at most ``batch_size`` as possible, sizes equal to within one.

    A last batch of one clip would weigh as much in training as a full one.
    """
    count = -(-len(order) // batch_size)
    bounds = [len(order) * position // count for position in range(count + 1)]
    return [list(order[start:end]) for start, end in pairwise(bounds)]


class _Batches(DistributedSampler):
    """Deals a list of batches to processes; one that would get fewer repeats batches, so that none waits."""

    def __init__(self, seconds: Sequence[float], batch_size: int, rank: int, world_size: int, seed: int = 0) -> None:
        super().__init__(range(len(seconds)), num_replicas=world_size, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.seconds = tuple(seconds)
        self.batch_size = batch_size

    def batches(self) -> list[list[int]]:
        """Every batch of all processes."""
        raise NotImplementedError

    @property
    def num_clips(self) -> int:
        """Clips in all batches of all processes together."""
        return len(self.seconds)

    def __len__(self) -> int:
        count = -(-self.num_clips // self.batch_size)
        return -(-count // self.num_replicas)

    def mine(self) -> list[list[int]]:
        """The batches of this process."""
        everyone = self.batches()
        needed = len(self) * self.num_replicas
        repeated = [everyone[position % len(everyone)] for position in range(needed)]
        return repeated[self.rank :: self.num_replicas]

    def is_repeat(self, number: int) -> bool:
        """Whether batch ``number`` of this process is one that another has too, there to keep this one busy."""
        return number * self.num_replicas + self.rank >= -(-self.num_clips // self.batch_size)


class TrainBatches(_Batches):
    """Batches of ``(epoch, index)`` pairs: clips of like length together, every clip once an epoch.

    Of the last ``num_replay`` clips, which are general speech, each epoch draws other ``num_drawn``.

    Args:
        seconds: Length of each utterance.
        batch_size: Most utterances in a batch.
        rank: This process.
        world_size: Number of processes.
        seed: Another seed gives other batches.
        num_replay: How many clips at the end are drawn from.
        num_drawn: How many of them an epoch gets; at most all.
    """

    def __init__(
        self,
        seconds: Sequence[float],
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int = 0,
        num_replay: int = 0,
        num_drawn: int = 0,
    ) -> None:
        super().__init__(seconds, batch_size, rank, world_size, seed)
        self.num_own = len(seconds) - num_replay
        self.num_drawn = min(num_drawn, num_replay)

    @property
    def num_clips(self) -> int:
        """The speaker's own clips and those that are drawn."""
        return self.num_own + self.num_drawn

    def batches(self) -> list[list[int]]:
        """Every batch of this epoch: sorted by jittered length, cut, shuffled."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        jitter = 1 + JITTER * (2 * torch.rand(len(self.seconds), generator=generator, dtype=torch.float64) - 1)
        lengths = torch.tensor(self.seconds, dtype=torch.float64) * jitter
        drawn = torch.randperm(len(self.seconds) - self.num_own, generator=generator)[: self.num_drawn]
        chosen = torch.cat([torch.arange(self.num_own), self.num_own + drawn])
        order = chosen[lengths[chosen].argsort(stable=True)].tolist()
        everyone = cut(order, self.batch_size)
        return [everyone[position] for position in torch.randperm(len(everyone), generator=generator).tolist()]

    def __iter__(self) -> Iterator[list[Pick]]:
        for batch in self.mine():
            yield [(self.epoch, index) for index in batch]


class EvaluationBatches(_Batches):
    """Batches of ``(None, index)`` pairs by length, then UID; equal in every epoch and for any number of processes.

    Args:
        seconds: Length of each utterance.
        uids: Name of each utterance.
        batch_size: Most utterances in a batch.
        rank: This process.
        world_size: Number of processes.
    """

    def __init__(
        self, seconds: Sequence[float], uids: Sequence[str], batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(seconds, batch_size, rank, world_size)
        self.uids = tuple(uids)

    def batches(self) -> list[list[int]]:
        """Every batch: a fixed list, because some models score a clip by the company it keeps."""
        order = sorted(range(len(self.seconds)), key=lambda index: (self.seconds[index], self.uids[index]))
        return cut(order, self.batch_size)

    def __iter__(self) -> Iterator[list[Pick]]:
        for batch in self.mine():
            yield [(None, index) for index in batch]
