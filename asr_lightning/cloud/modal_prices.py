"""What Modal's machines cost. A table, because Modal gives no prices to its client."""

from __future__ import annotations

CORES = 4
MEMORY_GIB = 16
AS_OF = "2026-06-27"
"""Prices by the second of https://modal.com/pricing, as articles of that time quoted them; look there yourself."""

_HOUR = 3600
_CORE = 0.0000131
_GIB = 0.00000222
_GPUS = {
    "T4": 0.000164,
    "L4": 0.000222,
    "L40S": 0.000542,
    "A100": 0.000694,  # Modal may give one of 40 GB for it, which is cheaper
    "A100-80GB": 0.000694,
    "H100": 0.001097,
    "B200": 0.001736,
}


def price(gpu: str) -> float:
    """USD an hour of one ``gpu`` with the cores and the memory that we ask for.

    Raises:
        ValueError: It is not in the table; the message lists those that are.
    """
    if gpu not in _GPUS:
        raise ValueError(f"no price of {gpu!r} on Modal: choose one of {', '.join(_GPUS)}")
    return (_GPUS[gpu] + CORES * _CORE + MEMORY_GIB * _GIB) * _HOUR
