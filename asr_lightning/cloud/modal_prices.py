"""Prices of Modal's machines. They are a table, because Modal's client cannot ask for them."""

from __future__ import annotations

CORES = 4
MEMORY_GIB = 16
AS_OF = "2026-06-27"
"""Date of the prices: those of https://modal.com/pricing by the second, as articles of that time quoted them."""

_HOUR = 3600
_CORE = 0.0000131
_GIB = 0.00000222
_GPUS = {
    "T4": 0.000164,
    "L4": 0.000222,
    "L40S": 0.000542,
    "A100": 0.000694,  # Modal may provide one with 40 GB instead, which is cheaper
    "A100-80GB": 0.000694,
    "H100": 0.001097,
    "B200": 0.001736,
}


def price(gpu: str) -> float:
    """Price of one ``gpu`` with ``CORES`` and ``MEMORY_GIB``, in USD an hour.

    Raises:
        ValueError: The GPU is not in the table; the message lists those that are.
    """
    if gpu not in _GPUS:
        raise ValueError(f"no price is known for {gpu!r} on Modal: choose one of {', '.join(_GPUS)}")
    return (_GPUS[gpu] + CORES * _CORE + MEMORY_GIB * _GIB) * _HOUR
