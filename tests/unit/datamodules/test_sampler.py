from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest

from asr_lightning.datamodules.dataset import Pick
from asr_lightning.datamodules.sampler import EvaluationBatches, TrainBatches, cut

RECORDED = [[0, 6, 5, 1, 2], [8, 3, 4, 7, 11]]


def clips(batch: list[Pick]) -> list[int]:
    return [pick.clip for pick in batch]


def seconds_of(num: int) -> list[float]:
    return [random.Random(index).lognormvariate(1, 0.5) for index in range(num)]


@pytest.mark.parametrize(("num", "size"), list(itertools.product([1, 2, 3, 16, 17, 33, 200], [1, 4, 16])))
def test_cut(num, size):
    batches = cut(range(num), size)
    assert [index for batch in batches for index in batch] == list(range(num))
    assert len(batches) == -(-num // size)
    assert max(map(len, batches)) <= size and max(map(len, batches)) - min(map(len, batches)) <= 1


@pytest.mark.parametrize(("num", "size", "world"), list(itertools.product([1, 3, 17, 100], [1, 8], [1, 2, 4])))
def test_every_clip_once_an_epoch(num, size, world):
    samplers = [TrainBatches(seconds_of(num), size, rank, world, seed=3) for rank in range(world)]
    for epoch in range(3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        dealt = [list(sampler) for sampler in samplers]
        assert {len(batches) for batches in dealt} == {len(sampler) for sampler in samplers} == {len(samplers[0])}
        assert all(pair[0] == epoch for batches in dealt for batch in batches for pair in batch)
        in_turn = [batch for step in zip(*dealt, strict=True) for batch in step]
        first_deal = in_turn[: -(-num // size)]  # the rest are duplicates
        assert sorted(index for batch in first_deal for index in clips(batch)) == list(range(num))
        assert all(clips(batch) in map(clips, first_deal) for batch in in_turn)
        assert {pick.is_duplicate for batch in in_turn[len(first_deal) :] for pick in batch} <= {True}
        counted = [
            index for batches in dealt for batch in batches if not batch[0].is_duplicate for index in clips(batch)
        ]
        assert sorted(counted) == list(range(num))


def test_batches_change_with_epoch_and_seed_only():
    def batches(epoch: int, seed: int) -> list[list[tuple[int, int]]]:
        sampler = TrainBatches(seconds_of(100), 8, 0, 1, seed)
        sampler.set_epoch(epoch)
        return [sorted(clips(batch)) for batch in sampler]

    assert batches(1, 0) == batches(1, 0)
    assert batches(1, 0) != batches(2, 0) and batches(1, 0) != batches(1, 1)
    assert sorted(batches(1, 0)) != sorted(batches(2, 0))  # other clips share a batch, not only in another order


def test_buckets_are_narrow():
    """Less than a fifth of a batch is padding, while more than a third of unsorted batches would be."""
    seconds = seconds_of(200)
    sampler = TrainBatches(seconds, 16, 0, 1)
    for epoch in range(5):
        sampler.set_epoch(epoch)
        batches = [[seconds[index] for index in clips(batch)] for batch in sampler]
        computed = sum(max(batch) * len(batch) for batch in batches)
        assert sum(seconds) / computed > 0.8
    unsorted = [seconds[start : start + 16] for start in range(0, 200, 16)]
    assert sum(seconds) / sum(max(batch) * len(batch) for batch in unsorted) < 0.65


def test_shape_count_bounded():
    """Clips of one length give at most two batch sizes in all epochs."""
    sampler = TrainBatches([1.0] * 83, 16, 0, 1)
    sizes = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        sizes |= {len(batch) for batch in sampler}
    assert sizes == {13, 14}


@pytest.mark.parametrize(("num", "size"), list(itertools.product([1, 5, 33, 100], [1, 8])))
def test_evaluation_batches_do_not_depend_on_processes(num, size):
    seconds, uids = seconds_of(num), [f"u{index}" for index in range(num)]
    alone = list(EvaluationBatches(seconds, uids, size))
    assert [index for batch in alone for index in clips(batch)] == sorted(range(num), key=lambda index: seconds[index])
    for world in (2, 3, 8):
        dealt = [EvaluationBatches(seconds, uids, size, rank, world) for rank in range(world)]
        assert len({len(list(sampler)) for sampler in dealt}) == 1
        assert all(len(list(sampler)) == len(sampler) for sampler in dealt)
        in_turn = [batch for step in zip(*dealt, strict=True) for batch in step]
        assert in_turn[: len(alone)] == alone and all(clips(batch) in map(clips, alone) for batch in in_turn)


def test_evaluation_order_is_fixed_and_uid_breaks_ties():
    first = EvaluationBatches([1.0, 1.0, 0.5], ["b", "a", "c"], 2)
    first.set_epoch(7)
    assert list(first) == [[Pick(None, 2)], [Pick(None, 1), Pick(None, 0)]]


@pytest.mark.parametrize("world", [1, 2])
def test_every_own_clip_and_some_replay_each_epoch(world):
    """Each epoch has every clip of the speaker once, and other clips of general speech."""
    samplers = [TrainBatches(seconds_of(30), 4, rank, world, 3, num_replay=10, num_drawn=5) for rank in range(world)]
    drawn = []
    for epoch in range(4):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        dealt = [list(sampler) for sampler in samplers]
        assert {len(batches) for batches in dealt} == {len(sampler) for sampler in samplers}
        used = {index for batches in dealt for batch in batches for index in clips(batch)}
        assert set(range(20)) <= used and len(used) == 25
        drawn.append(frozenset(used - set(range(20))))
    assert len(set(drawn)) > 1
    assert TrainBatches(seconds_of(30), 4, 0, 1, 3, num_replay=10, num_drawn=99).num_clips == 30


def test_draws_without_epoch_clips_stay_what_they_were():
    """The batches were recorded before ``epoch_clips`` was added, and the recipes' figures were measured with them."""
    sampler = TrainBatches(seconds_of(12), 5, 0, 1, 3, num_replay=4, num_drawn=2)
    sampler.set_epoch(2)
    assert [clips(batch) for batch in sampler] == RECORDED


@pytest.mark.parametrize(("num", "least", "world"), list(itertools.product([1, 3, 10, 40], [0, 7, 55], [1, 2, 3])))
def test_few_clips_are_repeated_equally_often(num, least, world):
    """Numbers of repetitions differ by one at most, for any number of processes; few draws add no repetitions."""
    replay = seconds_of(6)
    samplers = [
        TrainBatches(seconds_of(num) + replay, 8, rank, world, 3, len(replay), 4, epoch_clips=least)
        for rank in range(world)
    ]
    draws = max(num, least)
    for epoch in range(3):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        dealt = [list(sampler) for sampler in samplers]
        assert {len(batches) for batches in dealt} == {len(samplers[0])}
        in_turn = [batch for step in zip(*dealt, strict=True) for batch in step][: -(-(draws + 4) // 8)]
        alone = TrainBatches(seconds_of(num) + replay, 8, 0, 1, 3, len(replay), 4, epoch_clips=least)
        alone.set_epoch(epoch)
        assert in_turn == list(alone), "several processes draw the same as one"
        picks = [pick for batch in in_turn for pick in batch]
        own = [pick for pick in picks if pick.clip < num]
        times = Counter(pick.clip for pick in own)
        assert len(own) == draws and len(picks) == draws + 4
        assert set(times) == set(range(num)) and max(times.values()) - min(times.values()) <= 1
        assert all({p.repeat for p in own if p.clip == index} == set(range(count)) for index, count in times.items())


def test_repeats_of_a_clip_do_not_fill_a_batch():
    """Of ten clips in batches of 16, none is in a batch more than twice, and all batches have general speech."""
    sampler = TrainBatches(seconds_of(110), 16, 0, 1, 0, num_replay=100, num_drawn=40, epoch_clips=160)
    for batch in sampler:
        times = Counter(pick.clip for pick in batch if pick.clip < 10)
        assert max(times.values()) <= 2 and len(times) >= 6
        assert 1 <= sum(pick.clip >= 10 for pick in batch) <= 5
