"""What Hugging Face's CTC models need: a loss in float32 on any device, and greedy labels.

Must never know audio, files or a trainer. Used by ``hf_ctc.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.loss.loss_ctc import ForCTCLoss

from asr_lightning.types import LossOutput


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Tensor, blank: int) -> LossOutput:
    """Mean over utterances of the loss per label, in float32, with cuDNN off (pitfalls T40 to T42).

    A clip with fewer frames than its text needs counts as 0; the collator has named it.

    Args:
        logits: ``[B, F', V]``.
        lengths: ``[B]``, true frames.
        targets: int64 ``[B, U]``, -100 where there is no label.
        blank: Label between labels.
    """
    device = "cpu" if logits.device.type == "mps" else logits.device  # CTC has no kernel on Apple silicon (T43)
    with torch.autocast(logits.device.type, enabled=False):
        tensors = (logits.float().to(device), targets.to(device), lengths.to(device))
        loss = ForCTCLoss(*tensors, blank, reduction="mean", zero_infinity=True)
    return LossOutput(loss.to(logits.device), len(targets))


def greedy_labels(logits: Tensor, lengths: Tensor, blank: int) -> list[list[int]]:
    """The best label of each true frame, equal neighbours as one, blanks dropped."""
    best = logits.argmax(-1).cpu()
    rows = (torch.unique_consecutive(row[:length]) for row, length in zip(best, lengths.tolist(), strict=True))
    return [row[row != blank].tolist() for row in rows]
