"""Decides which utterances share a batch: clips of similar length in training, a fixed order in dev and test.

The batches are made first and then divided among the processes, so that the number of processes does not change the
batches. The base class is ``DistributedSampler``, because Lightning would wrap any other sampler and divide its batches
again. Knows seconds and counts only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from asr_lightning.datamodules.dataset import Pick

JITTER = 0.1  # lengths are changed by up to this share before sorting, so that batches differ in each epoch


def cut(order: Sequence[int], batch_size: int) -> list[list[int]]:
    """Divide ``order`` into as few batches of at most ``batch_size`` as possible, whose sizes differ by one at most.

    Otherwise a last batch of a single clip would have as much weight in training as a full one.
    """
    count = -(-len(order) // batch_size)
    bounds = [len(order) * position // count for position in range(count + 1)]
    return [list(order[start:end]) for start, end in pairwise(bounds)]


class _Batches(DistributedSampler):
    """Divides a list of batches among processes; one that would get fewer gets duplicates, so that no other waits."""

    def __init__(self, seconds: Sequence[float], batch_size: int, rank: int, world_size: int, seed: int = 0) -> None:
        super().__init__(range(len(seconds)), num_replicas=world_size, rank=rank, seed=seed)  # type: ignore[arg-type]
        self.seconds = tuple(seconds)
        self.batch_size = batch_size

    def batches(self) -> list[list[Pick]]:
        """All batches of all processes."""
        raise NotImplementedError

    @property
    def num_clips(self) -> int:
        """Number of clips in all batches of all processes."""
        return len(self.seconds)

    def __len__(self) -> int:
        count = -(-self.num_clips // self.batch_size)
        return -(-count // self.num_replicas)

    def __iter__(self) -> Iterator[list[Pick]]:
        """The batches of this process; those that another process has as well are marked as duplicates."""
        batches = self.batches()
        for position in range(self.rank, len(self) * self.num_replicas, self.num_replicas):
            batch = batches[position % len(batches)]
            yield batch if position < len(batches) else [pick._replace(is_duplicate=True) for pick in batch]


class TrainBatches(_Batches):
    """Batches of clips of similar length, with every clip of the speaker once in each epoch.

    With ``epoch_clips``, clips are repeated, so that their numbers of occurrences differ by one at most. Of the last
    ``num_replay`` clips, which are general speech, each epoch draws ``num_drawn`` at random.

    Args:
        seconds: Length of each utterance.
        batch_size: Largest number of utterances in a batch.
        rank: Number of this process.
        world_size: Number of processes.
        seed: Another seed gives other batches.
        num_replay: Number of clips at the end that are general speech.
        num_drawn: Number of them in each epoch; at most all.
        epoch_clips: Smallest number of the speaker's clips in an epoch; if there are fewer, they are repeated.
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
        self.num_speaker = len(seconds) - num_replay
        self.num_speaker_drawn = max(self.num_speaker, epoch_clips)
        self.num_drawn = min(num_drawn, num_replay)

    @property
    def num_clips(self) -> int:
        """Number of clips in an epoch: those of the speaker, including repetitions, and of replay."""
        return self.num_speaker_drawn + self.num_drawn

    def batches(self) -> list[list[Pick]]:
        """All batches of this epoch: clips sorted by slightly changed lengths, divided, and the batches shuffled.

        A round contains each clip of the speaker once. Each round is sorted by itself, since otherwise a batch could
        consist of repetitions of one clip. Every other round goes from long to short, so that a batch across two rounds
        has clips of similar length as well.
        """
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        lengths = self._jittered(torch.arange(len(self.seconds)), generator)
        num_replay = len(self.seconds) - self.num_speaker
        replay = self.num_speaker + torch.randperm(num_replay, generator=generator)[: self.num_drawn]
        repeats = self._repeats(generator)
        lengths = torch.cat([lengths[: self.num_speaker], self._jittered(repeats, generator), lengths[replay]])
        chosen = torch.cat([torch.arange(self.num_speaker), repeats, replay])
        spread = torch.arange(self.num_drawn) * self.num_speaker_drawn // max(1, self.num_drawn)
        rounds = torch.cat([torch.arange(self.num_speaker_drawn), spread]) // self.num_speaker
        keys = torch.where(rounds % 2 == 0, lengths, -lengths)
        picks = [Pick(self.epoch, *pick) for pick in zip(chosen.tolist(), rounds.tolist(), strict=True)]
        order = sorted(range(len(picks)), key=list(zip(rounds.tolist(), keys.tolist(), strict=True)).__getitem__)
        batches = [[picks[position] for position in batch] for batch in cut(order, self.batch_size)]
        return [batches[position] for position in torch.randperm(len(batches), generator=generator).tolist()]

    def _jittered(self, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Lengths of the clips ``chosen`` ``[N]``, each changed by a random share up to ``JITTER``."""
        draws = torch.rand(len(chosen), generator=generator, dtype=torch.float64)
        return torch.tensor(self.seconds, dtype=torch.float64)[chosen] * (1 + JITTER * (2 * draws - 1))

    def _repeats(self, generator: torch.Generator) -> Tensor:
        """The speaker's clips in all rounds after the first: all of them in each round, random ones in the last."""
        rounds, rest = divmod(self.num_speaker_drawn, self.num_speaker)
        last = torch.randperm(self.num_speaker, generator=generator)[:rest] if rest else torch.arange(0)
        return torch.cat([torch.arange(self.num_speaker).repeat(rounds - 1), last])


class EvaluationBatches(_Batches):
    """Batches of clips sorted by length, then UID: the same in every epoch and for any number of processes.

    Args:
        seconds: Length of each utterance.
        uids: Name of each utterance.
        batch_size: Largest number of utterances in a batch.
        rank: Number of this process.
        world_size: Number of processes.
    """

    def __init__(
        self, seconds: Sequence[float], uids: Sequence[str], batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        super().__init__(seconds, batch_size, rank, world_size)
        self.uids = tuple(uids)

    def batches(self) -> list[list[Pick]]:
        """All batches, always the same, because the score of a clip may depend on the other clips in its batch."""
        order = sorted(range(len(self.seconds)), key=lambda index: (self.seconds[index], self.uids[index]))
        return [[Pick(None, index) for index in batch] for batch in cut(order, self.batch_size)]
