"""transformers' attention masks without a wait for the GPU. Knows no model; used by every adapter of its networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import masking_utils


@contextmanager
def no_host_reads(device: torch.device) -> Iterator[None]:
    """Lets transformers' networks make every attention mask on a GPU without a look at what is in it.

    To leave out a mask that hides nothing they ask the device about it, in each forward, and the host waits for the
    answer; they do not while a graph is recorded, which is what they are told here (5.23, ``masking_utils``). On a
    CPU an answer costs nothing and saves a mask.
    """
    if device.type == "cpu":
        yield
        return
    own = masking_utils.is_tracing
    masking_utils.is_tracing = lambda tensor=None: True
    try:
        yield
    finally:
        masking_utils.is_tracing = own
