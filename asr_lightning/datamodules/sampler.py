"""Which utterances share a batch: narrow duration buckets in training, one fixed order in dev and test.

Knows seconds and counts only. Batches are cut first and dealt to the processes after, so that their number never
changes who shares a batch. ``DistributedSampler`` is the base because Lightning wraps, and so splits, all others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
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
    """Deals a list of batches to processes; one that would get fewer gets duplicates, so that none waits."""

    def __init__(self, seconds: Sequence[float], batch_size: int, rank: int, world_size: int, seed: int = 0) -> None:
        super().__init__(range(len(seconds)), num_replicas=world_size, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.seconds = tuple(seconds)
        self.batch_size = batch_size

    def batches(self) -> list[list[Pick]]:
        """Every batch of all processes."""
        raise NotImplementedError

    @property
    def num_clips(self) -> int:
        """Clips in all batches of all processes together."""
        return len(self.seconds)

    def __len__(self) -> int:
        count = -(-self.num_clips // self.batch_size)
        return -(-count // self.num_replicas)

    def __iter__(self) -> Iterator[list[Pick]]:
        """The batches of this process; what another process has too is marked as a duplicate."""
        everyone = self.batches()
        for position in range(self.rank, len(self) * self.num_replicas, self.num_replicas):
            batch = everyone[position % len(everyone)]
            yield batch if position < len(everyone) else [pick._replace(is_duplicate=True) for pick in batch]


class TrainBatches(_Batches):
    """Clips of like length together, every clip once an epoch; or, with ``epoch_clips``, equally often within one.

    Of the last ``num_replay`` clips, which are general speech, each epoch draws other ``num_drawn``.

    Args:
        seconds: Length of each utterance.
        batch_size: Most utterances in a batch.
        rank: This process.
        world_size: Number of processes.
        seed: Another seed gives other batches.
        num_replay: How many clips at the end are drawn from.
        num_drawn: How many of them an epoch gets; at most all.
        epoch_clips: How many of the other clips an epoch draws at least; fewer clips are repeated for it.
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
        epoch_clips: int = 0,
    ) -> None:
        super().__init__(seconds, batch_size, rank, world_size, seed)
        self.num_own = len(seconds) - num_replay
        self.num_own_drawn = max(self.num_own, epoch_clips)
        self.num_drawn = min(num_drawn, num_replay)

    @property
    def num_clips(self) -> int:
        """Draws of the speaker's own clips, and of replay."""
        return self.num_own_drawn + self.num_drawn

    def batches(self) -> list[list[Pick]]:
        """Every batch of this epoch: sorted by jittered length, cut, shuffled.

        Each time that all own clips have been drawn is a round, and rounds are sorted one by one: sorted together, the
        repeats of one clip would fill a batch. Every other round goes from long to short, so that a batch that two
        rounds share holds clips of like length, too.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        lengths = self._jittered(torch.arange(len(self.seconds)), generator)
        replay = self.num_own + torch.randperm(len(self.seconds) - self.num_own, generator=generator)[: self.num_drawn]
        repeats = self._repeats(generator)
        lengths = torch.cat([lengths[: self.num_own], self._jittered(repeats, generator), lengths[replay]])
        chosen = torch.cat([torch.arange(self.num_own), repeats, replay])
        spread = torch.arange(self.num_drawn) * self.num_own_drawn // max(1, self.num_drawn)
        rounds = torch.cat([torch.arange(self.num_own_drawn), spread]) // self.num_own
        keys = torch.where(rounds % 2 == 0, lengths, -lengths)
        picks = [Pick(self.epoch, *pick) for pick in zip(chosen.tolist(), rounds.tolist(), strict=True)]
        order = sorted(range(len(picks)), key=list(zip(rounds.tolist(), keys.tolist(), strict=True)).__getitem__)
        everyone = [[picks[place] for place in batch] for batch in cut(order, self.batch_size)]
        return [everyone[position] for position in torch.randperm(len(everyone), generator=generator).tolist()]

    def _jittered(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Lengths of the clips at ``chosen`` ``[N]``, each changed a little."""
        draws = torch.rand(len(chosen), generator=generator, dtype=torch.float64)
        return torch.tensor(self.seconds, dtype=torch.float64)[chosen] * (1 + JITTER * (2 * draws - 1))

    def _repeats(self, generator: torch.Generator) -> Tensor:
        """Own clips that are drawn after the first round: all of them in every round but the last."""
        rounds, rest = divmod(self.num_own_drawn, self.num_own)
        last = torch.randperm(self.num_own, generator=generator)[:rest] if rest else torch.arange(0)
        return torch.cat([torch.arange(self.num_own).repeat(rounds - 1), last])


class EvaluationBatches(_Batches):
    """Clips by length, then UID; equal in every epoch and for any number of processes.

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

    def batches(self) -> list[list[Pick]]:
        """Every batch: a fixed list, because some models score a clip by the company it keeps."""
        order = sorted(range(len(self.seconds)), key=lambda index: (self.seconds[index], self.uids[index]))
        return [[Pick(None, index) for index in batch] for batch in cut(order, self.batch_size)]
