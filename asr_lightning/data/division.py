"""Divides the clips of a speaker among train, dev and test. Knows no file."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from asr_lightning.data.rows import Row, split_key
from asr_lightning.errors import DataError, OptionError

SPLITS = ("train", "dev", "test")
SHARES = (0.7, 0.2, 0.1)

FEW_CLIPS = 100
"""Number of clips below which a tenth of them is too small a test split to decide anything."""

DEV_TEXTS, TEST_TEXTS = 6, 10
"""Number of different texts that dev and test of fewer clips get, if that is no more than a quarter of them."""

UNSPLIT = 24
"""Number of different texts below which a quarter of them is too small a test split to decide anything: 5, where the
interval of the report needs 6. Such a set is best tested out of fold."""

Splits = dict[str, tuple[Row, ...]]


def require_valid_shares(shares: Sequence[float]) -> None:
    """Refuse anything but three positive numbers that sum to 1.

    Raises:
        ValueError: ``shares`` are something else; the message names them.
    """
    all_positive = len(shares) == 3 and all(math.isfinite(share) and share > 0 for share in shares)
    if not all_positive or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise OptionError(
            f"--data.shares must be three positive numbers for train, dev and test that sum to 1, but are "
            f"{tuple(shares)}; the default is {SHARES}"
        )


def num_texts(rows: Iterable[Row]) -> int:
    """Number of different texts."""
    return len({split_key(row.text) for row in rows})


def shares_of(rows: Sequence[Row]) -> dict[str, float]:
    """Weights of the splits where the user has named no shares: ``SHARES``, but more dev and test for few clips.

    A test split of a tenth decides nothing where there are few clips: of forty, it has four.
    """
    shares, count, texts = dict(zip(SPLITS, SHARES, strict=True)), len(rows), num_texts(rows)
    if texts < UNSPLIT or count >= FEW_CLIPS:
        return shares
    for split, least in (("dev", DEV_TEXTS), ("test", TEST_TEXTS)):
        shares[split] = max(round(shares[split] * count), min(count // 4, math.ceil(least * count / texts)))
    return shares | {"train": count - shares["dev"] - shares["test"]}


def divide(rows: Iterable[Row], shares: Mapping[str, float], seed: int) -> Splits:
    """Divide ``rows`` among the splits of ``shares``, as close to the shares as possible, with no split empty.

    Rows with equal texts stay together. Texts are assigned in the order of a seeded hash, those of most rows first,
    each to the split that lacks most rows.

    Args:
        rows: Rows in any order; the result does not depend on it.
        shares: Positive weight of each split.
        seed: Another seed gives another assignment.

    Raises:
        ValueError: There are fewer different texts than splits.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.uid):
        groups[split_key(row.text)].append(row)
    num_rows = sum(map(len, groups.values()))
    if len(groups) < len(shares):
        raise DataError(
            f"cannot make {len(shares)} splits ({', '.join(shares)}) out of {len(groups)} different texts in "
            f"{num_rows} recordings that are free: equal texts must stay in one split, and none may be empty. "
            f"Record at least {len(shares)} different texts."
        )
    lacking = _counts(num_rows, shares)
    result: dict[str, list[Row]] = {split: [] for split in shares}
    order = sorted(groups, key=lambda key: (-len(groups[key]), _hash(seed, key)))
    for position, key in enumerate(order):
        empty = [split for split in shares if not result[split]]
        choices = empty if len(order) - position <= len(empty) else list(shares)
        split = max(choices, key=lambda name: lacking[name])
        result[split] += groups[key]
        lacking[split] -= len(groups[key])
    return {split: tuple(sorted(members, key=lambda row: row.uid)) for split, members in result.items()}


def _counts(num_rows: int, shares: Mapping[str, float]) -> dict[str, int]:
    """The number of rows of each split, at least 1: by the largest-remainder method, with the sum ``num_rows``."""
    exact = {split: num_rows * share / sum(shares.values()) for split, share in shares.items()}
    counts = {split: math.floor(value + 1e-9) for split, value in exact.items()}
    by_remainder = sorted(shares, key=lambda split: round(counts[split] - exact[split], 9))  # train first if equal
    for split in by_remainder[: num_rows - sum(counts.values())]:
        counts[split] += 1
    for split in shares:
        if not counts[split]:
            counts[max(counts, key=lambda name: counts[name])] -= 1
            counts[split] = 1
    return counts


def _hash(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}\n{key}".encode()).hexdigest()
