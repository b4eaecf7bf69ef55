"""transformers' attention masks without a wait for the GPU. Knows no model; every Hugging Face adapter uses it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import masking_utils


@contextmanager
def no_host_reads(device: torch.device) -> Iterator[None]:
    """Let transformers' networks build their attention masks on a GPU without reading them back.

    transformers 5.23 (``masking_utils``) leaves out a mask that hides nothing. To know that, it reads the mask in each
    forward pass, and the host waits for the device. It does not read masks while a graph is traced, so inside this
    context it is told that one is. On a CPU reading costs nothing and saves a mask.
    """
    if device.type == "cpu":
        yield
        return
    original = masking_utils.is_tracing
    masking_utils.is_tracing = lambda tensor=None: True
    try:
        yield
    finally:
        masking_utils.is_tracing = original
