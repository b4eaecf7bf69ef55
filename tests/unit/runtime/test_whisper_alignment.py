from __future__ import annotations

import numpy as np
import pytest

from asr_lightning.runtime.whisper import alignment


def _reference(costs: np.ndarray) -> list[int]:
    """Dynamic time warping cell by cell, as openai/whisper ``timing.py`` has it."""
    rows, columns = costs.shape
    total = np.full((rows + 1, columns + 1), np.inf)
    total[0, 0] = 0
    for row in range(1, rows + 1):
        for column in range(1, columns + 1):
            before = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
            total[row, column] = costs[row - 1, column - 1] + min(before)
    row, column, starts = rows, columns, [0] * rows
    while row > 0:
        starts[row - 1] = column - 1
        before = total[row - 1, column - 1], total[row - 1, column], total[row, column - 1]
        step = int(np.argmin(before))
        row, column = row - (step != 2), column - (step != 1)
    return starts


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 9), (4, 4), (7, 40), (30, 12)])
def test_the_path_is_that_of_the_reference(rows: int, columns: int) -> None:
    for seed in range(20):
        costs = np.random.default_rng(seed).normal(size=(rows, columns))
        assert alignment.path_starts(costs) == _reference(costs)


def test_tokens_start_where_the_heads_look() -> None:
    """Three tokens and the end, which look at positions 0, 10, 25 and 40 of 50."""
    places = np.array([0, 10, 25, 40])
    distance = np.abs(np.arange(50)[None] - (np.append(places[1:], 50) + places)[:, None] / 2)
    starts = alignment.starts(np.repeat(-(distance**2)[None] / 8, 2, axis=0).astype(np.float32))
    assert np.allclose(starts, places * 0.02, atol=0.08)
