"""What the loss and the text of a batch may share, and when they may not."""

from __future__ import annotations

import torch

from asr_lightning.modes import Shared
from asr_lightning.types import SpeechBatch


def batch() -> SpeechBatch:
    empty = torch.zeros(0)
    return SpeechBatch.of((), {}, empty, empty)


def test_an_evaluation_pass_computes_a_batch_once() -> None:
    shared, model, calls = Shared[int](), torch.nn.Linear(1, 1), []
    first, second = batch(), batch()

    def compute(of: SpeechBatch) -> int:
        calls.append(of)
        return len(calls)

    with torch.no_grad():
        assert [shared.of(first, compute), shared.of(first, compute)] == [1, 2], "outside, weights may change"
        with shared.evaluating(model):
            assert not model.training
            assert [shared.of(first, compute), shared.of(first, compute), shared.of(second, compute)] == [3, 3, 4]
            with shared.evaluating(model), torch.enable_grad():
                assert shared.of(second, compute) == 5, "a gradient needs its own pass"
            assert shared.of(second, compute) == 4, "the inner end forgets nothing"
            assert [shared.take(second, compute), shared.of(second, compute)] == [4, 6], "what was taken may be changed"
        with shared.evaluating(model):
            assert shared.of(second, compute) == 7, "the outer end forgets"
    assert model.training


def test_a_pass_that_raised_leaves_nothing() -> None:
    shared, model = Shared[int](), torch.nn.Linear(1, 1)
    try:
        with shared.evaluating(model):
            raise RuntimeError
    except RuntimeError:
        pass
    assert model.training
    with torch.no_grad():
        found = batch()
        assert [shared.of(found, lambda _: 1), shared.of(found, lambda _: 2)] == [1, 2]
